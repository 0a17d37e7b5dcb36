"""A run's lineage: its schema, its one writer, its one reader, and the index that finds samples."""

"""Models on a Ray cluster. Importing any module in here imports ray: only a run on a cluster does."""

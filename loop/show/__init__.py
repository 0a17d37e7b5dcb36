"""What shows a run: its documents, and how they look in a terminal, a report and a browser."""

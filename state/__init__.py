"""What a run knows: records, configuration, errors, the lineage database, datasets in and out.

The lowest layer: nothing here imports torch, langgraph, or the folders above (agents, loop).
"""

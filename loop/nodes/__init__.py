"""The four nodes of the machine, a module each.

Every node asks the lineage what is still missing for its round and phase, does that in small batches and
commits each. So it can be killed at any instant and run again. A node opens the model it needs, only when
there is work for it, and closes it before it returns. Asked to stop, it finishes the batch in flight and
raises Interrupted, so that the machine takes it for unfinished.
"""

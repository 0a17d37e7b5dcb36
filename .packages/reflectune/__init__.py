"""Reflectune: a loop of reflection by a teacher, selection by a student, and LoRA, with a lineage.

In a checkout the three packages are links to its folders.
"""

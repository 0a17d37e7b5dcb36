"""A small world in which the whole loop can be seen at work: tasks, noisy data, and two tiny models."""

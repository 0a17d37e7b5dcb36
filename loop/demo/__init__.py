"""A small world in which the whole loop can be seen at work: tasks, noisy data, and two tiny models."""

from reflectune.state.records import PolicyName

__all__ = ["POLICY", "ROUNDS", "SAMPLES"]

# What a demo is unless it is told otherwise.
ROUNDS, SAMPLES = 3, 500
POLICY: PolicyName = "ifd+r-ifd"

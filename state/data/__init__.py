"""Instruction data in and out."""

"""The judge of held-out answers: what it is asked, what it says, and what its verdicts come to."""

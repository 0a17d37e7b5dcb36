"""The teacher: prompts, the engines that answer them, and the parser of answers."""

"""The machine and its controls: graph, nodes, selection and stopping rules, command line, display.

The top layer, and the only one that imports langgraph, typer and rich.
"""

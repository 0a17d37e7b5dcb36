"""The machine and its controls: graph, nodes, selection and stopping rules, commands, pages.

The top layer, and the only one that imports langgraph, typer, rich and starlette.
"""

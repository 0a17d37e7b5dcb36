"""Pages of HTML: the report that one sends around, and the browser over a run of any size.

The browser (`reflectune serve NAME`) has these pages, on Starlette:

    /                   what the run is, its rounds, charts, where to look
    /rounds             every round: decisions, held-out measures, what the teacher took
    /rounds/R           one round: phases by outcome, teacher calls by status, numbers with intervals
    /samples            samples found by words, outcome and change; the whole question is in the address:
                        q, round, phase, outcome, trained, min_ and max_ of ifd_change, r_ifd_change and
                        length_growth, sort, order, page
    /samples/P          the journey of the sample at position P; ?view=side puts versions side by side
    /samples/P/versions/V/F.txt     a text of a version, whole; F: instruction, input, response, criticism
    /samples/P/calls/C.txt          what the teacher answered, whole
    /runs               the runs of the same folder
    /compare/OTHER      this run against another of them
    /charts/NAME.svg    one chart

Tables, facets, SQL and JSON of the whole lineage: `datasette runs/NAME/lineage.db`.
"""

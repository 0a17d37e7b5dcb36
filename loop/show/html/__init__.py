"""Pages of HTML: the report that one sends around, and the browser over a run of any size.

`pages.ROUTES` has the addresses. Of /samples the whole question is in the address: q, round, phase, outcome,
trained, min_ and max_ of ifd_change, r_ifd_change and length_growth, sort, order, page.

Tables, facets, SQL and JSON of the whole lineage: `datasette runs/NAME/lineage.db`.
"""

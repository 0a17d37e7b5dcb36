"""Pages of HTML: the report and the browser. What both write texts and numbers with."""

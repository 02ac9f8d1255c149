"""A model's first page: markup, style and script, with marks for what it holds."""

PAGE = r"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Results: @MODEL@</title>
<style>
@STYLE@
</style>
</head>
<body>
<h1>@MODEL@: what can be pruned, and what is needed</h1>
@VERDICTS@
<h2>At a glance</h2>
<div class="figures">@FIRST@</div>
<h2>Pages</h2>
@PAGES@
<h2>Tables</h2>
<p>Choose a column's name to sort by it.</p>
<noscript>These tables need JavaScript, which the page holds itself; their files do not.</noscript>
@TABLES@
<h2>All other figures</h2>
<div class="figures">@FIGURES@</div>
<script>
"use strict";
@TABLES_SCRIPT@
</script>
</body>
</html>
"""

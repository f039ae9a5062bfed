"""The frame of a run's page: its HTML around the parts, and its style."""

PAGE = """<!doctype html>
<html lang=en>
<head>
<meta charset=utf-8>
<meta name=viewport content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root { color-scheme: light; --ink: #1c2430; --faint: #5f6b7a; --line: #e3e6eb; --paper: #fff; }
* { box-sizing: border-box; }
body { margin: 0; background: #f4f6f9; color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 32px 20px 64px; }
h1 { margin: 0; font-size: 28px; letter-spacing: -.01em; overflow-wrap: anywhere; }
h2 { margin: 0 0 12px; font-size: 17px; }
.lead { margin: 4px 0 24px; color: var(--faint); overflow-wrap: anywhere; }
.note { margin: -6px 0 12px; color: var(--faint); overflow-wrap: anywhere; }
section { margin-top: 20px; padding: 20px 24px; background: var(--paper);
  border: 1px solid var(--line); border-radius: 10px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(140px, 1fr)); gap: 12px; }
.tiles div { padding: 14px 16px; background: var(--paper); border: 1px solid var(--line);
  border-radius: 10px; }
.tiles b { display: block; font-size: 22px; font-variant-numeric: tabular-nums; }
.tiles span { color: var(--faint); font-size: 13px; }
svg { display: block; max-width: 100%; height: auto; }
figure { margin: 0 auto; max-width: 760px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: 6px 10px; border-bottom: 1px solid var(--line); text-align: right;
  white-space: nowrap; }
th { color: var(--faint); font-weight: 600; font-size: 13px; }
th:first-child, td:first-child, .plain th, .plain td { text-align: left; }
.plain td { white-space: normal; overflow-wrap: anywhere; }
.plain td:last-child { font-family: ui-monospace, Menlo, Consolas, monospace; font-size: 13px; }
tr:last-child td { border-bottom: 0; }
summary { cursor: pointer; color: var(--faint); }
details[open] summary { margin-bottom: 10px; }
@media print { body { background: #fff; } section { break-inside: avoid; } }
</style>
</head>
<body>
<main>
<h1>{title}</h1>
<p class=lead>{lead}</p>
{body}
</main>
</body>
</html>
"""

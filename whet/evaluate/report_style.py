"""The style sheet of report.html: system fonts, light and dark, one column on a phone."""

STYLE = """
:root {
  color-scheme: light dark;
  --page: #faf9f6; --card: #fff; --ink: #211f1c; --soft: #69645c; --rule: #e3dfd7; --track: #efece6;
  --before: #a8a297; --after: #0d7a6f; --faint: #9fd0ca; --right: #1b7a3d; --wrong: #b3372b; --code: #f5f3ee;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #151718; --card: #1c1f20; --ink: #e9e6e0; --soft: #a19b91; --rule: #313537; --track: #292d2f;
    --before: #77736b; --after: #3dbfae; --faint: #285c56; --right: #66c987; --wrong: #f08a7c; --code: #24282a;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 2.5rem 1.25rem 3rem; max-width: 60rem; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif;
  -webkit-text-size-adjust: 100%; overflow-wrap: anywhere;
}
h1 { margin: 0; font-size: 1.05rem; font-weight: 600; color: var(--soft); }
h2 { margin: 0 0 .25rem; font-size: 1.1rem; }
p { margin: 0; }
.hero { margin: 0 0 2rem; }
.numbers {
  display: flex; align-items: baseline; gap: .6rem 1rem; margin: .6rem 0 .4rem; flex-wrap: wrap;
  font-size: clamp(2.6rem, 9vw, 4.2rem); line-height: 1.05; font-weight: 650; letter-spacing: -.02em;
  font-variant-numeric: tabular-nums;
}
.numbers .was { color: var(--before); }
.numbers .now { color: var(--after); }
.numbers .to { font-size: .6em; font-weight: 400; color: var(--soft); }
.verdict { font-size: 1.15rem; }
section { margin: 0 0 1.25rem; padding: 1.25rem; background: var(--card); border: 1px solid var(--rule);
  border-radius: 12px; }
.hint { margin: 0 0 1rem; color: var(--soft); font-size: .9rem; }
.bars { display: grid; gap: 1.1rem; }
.bars h3 { margin: 0 0 .3rem; font-size: .95rem; font-weight: 600; }
.bars h3 small { font-weight: 400; color: var(--soft); font-size: .85rem; }
.bar { display: grid; grid-template-columns: 3.4rem 1fr 3.2rem; gap: .6rem; align-items: center; font-size: .9rem; }
.bar + .bar { margin-top: .3rem; }
.bar b { text-align: right; font-variant-numeric: tabular-nums; }
.track { position: relative; height: .9rem; border-radius: 4px; background: var(--track); }
.fill { height: 100%; border-radius: 4px; min-width: 2px; }
.before .fill { background: var(--before); }
.after .fill { background: var(--after); }
.range { position: absolute; top: 50%; height: 9px; margin-top: -4.5px; border: solid var(--ink); border-width: 0 2px;
  opacity: .75; }
.range::before { content: ""; position: absolute; left: 0; right: 0; top: 50%; height: 2px; margin-top: -1px;
  background: var(--ink); }
.plot { padding: 1.4rem .4rem 0 2.9rem; }
.curve { display: block; overflow: visible; font-size: 12px; font-variant-numeric: tabular-nums; }
.curve text { fill: var(--soft); }
.curve .name { font-weight: 600; }
.curve .grid { stroke: var(--rule); }
.curve .axis { stroke: var(--soft); }
.curve polyline { fill: none; stroke-linejoin: round; stroke-linecap: round; }
.curve .raw { stroke: var(--faint); stroke-width: 1.2; }
.curve .smooth { stroke: var(--after); stroke-width: 2.4; }
table { width: 100%; border-collapse: collapse; table-layout: fixed; }
.samples thead { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
.samples tbody { border-top: 1px solid var(--rule); }
.samples th.question { padding: .9rem 0 .45rem; text-align: left; font-weight: 600; }
.tag { margin-left: .4rem; padding: .1rem .5rem; border-radius: 99px; background: var(--track); color: var(--soft);
  font-size: .75rem; font-weight: 400; white-space: nowrap; }
.samples td { padding: 0 .75rem 1rem 0; vertical-align: top; }
.samples td:last-child { padding-right: 0; }
pre { margin: 0; padding: .55rem .65rem; border-radius: 7px; background: var(--code); white-space: pre-wrap;
  overflow-wrap: anywhere; font: .8rem/1.5 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace;
  border-left: 3px solid var(--rule); }
.right pre { border-left-color: var(--right); }
.wrong pre { border-left-color: var(--wrong); }
pre i { color: var(--soft); }
.label { margin: 0 0 .25rem; font-size: .8rem; color: var(--soft); }
.mark { margin-left: .3rem; font-weight: 600; }
.right .mark { color: var(--right); }
.wrong .mark { color: var(--wrong); }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(11rem, 1fr)); gap: .9rem 1.25rem;
  margin: .75rem 0 0; }
dt { color: var(--soft); font-size: .82rem; }
dd { margin: 0; font-variant-numeric: tabular-nums; }
dl .wide { grid-column: 1 / -1; }
ul { margin: .5rem 0 0; padding-left: 1.2rem; }
footer { color: var(--soft); font-size: .85rem; }
@media (max-width: 40rem) {
  body { padding: 1.5rem .8rem 2rem; }
  section { padding: 1rem .9rem; }
  .samples table, .samples tbody, .samples tr, .samples th.question, .samples td { display: block; }
  .samples td { padding: 0 0 .6rem; }
  .samples td:last-child { padding-bottom: 1rem; }
}
@media print {
  body { background: none; padding: 0; max-width: none; }
  section { break-inside: avoid-page; }
  .samples { break-inside: auto; }
  .samples tbody { break-inside: avoid; }
  .fill { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
"""

"""The style sheet of the preview page: system fonts, light and dark, one column on a phone."""

STYLE = """
:root {
  color-scheme: light dark;
  --page: #faf9f6; --card: #fff; --ink: #211f1c; --soft: #635e56; --rule: #e3dfd7; --track: #efece6;
  --quiet: #4a463f; --edge: #f3f1ec;
  --on: #c9e9d6; --on-edge: #aadabd; --on-ink: #06301f; --end: #1f7a55; --end-ink: #fff;
  --sp: #f4dfae; --sp-ink: #4a3500; --bar: #2d8f68; --over: #c98a1b; --focus: #0b63c4;
  --error: #a32a20; --warning: #8a5a00; --note: #3a5f86;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #151718; --card: #1c1f20; --ink: #e9e6e0; --soft: #a8a298; --rule: #313537; --track: #292d2f;
    --quiet: #c3beb4; --edge: #222627;
    --on: #1d4a37; --on-edge: #2a6149; --on-ink: #d5f2e2; --end: #62c596; --end-ink: #06281c;
    --sp: #57461d; --sp-ink: #f5e3b8; --bar: #4fb88a; --over: #d8a342; --focus: #7db4f5;
    --error: #f08a7c; --warning: #e3b75f; --note: #94b9e0;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 2.25rem 1.25rem 3rem; max-width: 62rem; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif;
  -webkit-text-size-adjust: 100%; overflow-wrap: anywhere;
}
h1 { margin: 0 0 .2rem; font-size: 1.7rem; line-height: 1.2; letter-spacing: -.01em; }
h2 { margin: 0 0 .6rem; font-size: 1.15rem; }
h3 { margin: 0; font-size: 1rem; }
p { margin: 0; }
a { color: inherit; }
:focus-visible { outline: 3px solid var(--focus); outline-offset: 2px; }
nav { display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; margin: .9rem 0 0; font-size: .92rem; }
header { margin: 0 0 1.5rem; }
.verdict { font-size: 1.1rem; color: var(--soft); }
section, article { margin: 0 0 1.1rem; padding: 1.2rem 1.25rem; background: var(--card); border: 1px solid var(--rule);
  border-radius: 12px; }
.about { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1.1rem; margin: .9rem 0 0; }
.about dt, .hint { color: var(--soft); font-size: .9rem; }
.about dd { margin: 0; font-size: .9rem; }
.big { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr)); gap: .9rem 1.25rem; margin: 0; }
.big dt { color: var(--soft); font-size: .82rem; }
.big dd { margin: 0; font-size: 1.55rem; font-weight: 620; line-height: 1.25; letter-spacing: -.01em;
  font-variant-numeric: tabular-nums; }
.wide { overflow-x: auto; }
table { width: 100%; margin: 1.1rem 0 0; border-collapse: collapse; font-size: .92rem;
  font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .9rem .35rem 0; text-align: left; vertical-align: top; border-top: 1px solid var(--rule); }
thead th, thead td { border-top: 0; color: var(--soft); font-weight: 500; }
tbody th { font-weight: 400; color: var(--soft); }
.findings { margin: 0; padding: 0; list-style: none; display: grid; gap: 1rem; }
.findings li { padding-left: .9rem; border-left: 4px solid var(--rule); }
.findings .error { border-color: var(--error); }
.findings .warning { border-color: var(--warning); }
.findings .note { border-color: var(--note); }
.level { font-size: .78rem; font-weight: 650; text-transform: uppercase; letter-spacing: .05em; }
.error .level { color: var(--error); }
.warning .level { color: var(--warning); }
.note .level { color: var(--note); }
.what { font-weight: 600; }
.do { color: var(--soft); }
.histogram { display: block; width: 100%; max-width: 46rem; height: auto; font-size: 12px;
  font-variant-numeric: tabular-nums; }
.histogram text { fill: var(--soft); }
.histogram .bar { fill: var(--bar); }
.histogram .over { fill: var(--over); }
.histogram .axis { stroke: var(--soft); }
.histogram .grid { stroke: var(--rule); }
.histogram .limit { stroke: var(--over); stroke-dasharray: 4 3; stroke-width: 1.5; }
.rows { margin: 1.6rem 0; }
.rows > input { position: absolute; opacity: 0; }
.filter { display: flex; flex-wrap: wrap; gap: .5rem; margin: 0 0 1rem; }
.filter label { padding: .3rem .9rem; border: 1px solid var(--rule); border-radius: 99px; background: var(--card);
  color: var(--soft); cursor: pointer; font-size: .9rem; }
#all:checked ~ .filter label[for=all], #warned:checked ~ .filter label[for=warned] { border-color: var(--ink);
  background: var(--ink); color: var(--page); }
#all:focus-visible ~ .filter label[for=all], #warned:focus-visible ~ .filter label[for=warned] {
  outline: 3px solid var(--focus); outline-offset: 2px; }
#warned:checked ~ article:not(.warned) { display: none; }
.none { display: none; color: var(--soft); }
#warned:checked ~ .none { display: block; }
.legend { display: flex; flex-wrap: wrap; align-items: baseline; gap: .4rem 1.1rem; margin: 0 0 1rem; font-size: .88rem;
  color: var(--soft); }
.meta { margin: 0 0 .6rem; color: var(--soft); font-size: .88rem; font-variant-numeric: tabular-nums; }
.remarks { margin: 0 0 .7rem; padding: 0; list-style: none; font-size: .9rem; color: var(--warning); }
.remarks li::before { content: "! "; font-weight: 700; }
.part { margin: .6rem 0 .25rem; font-size: .82rem; font-weight: 650; color: var(--soft); }
.text { padding: .7rem .85rem; border: 1px solid var(--rule); border-radius: 8px;
  white-space: pre-wrap;
  overflow-wrap: anywhere; color: var(--quiet); tab-size: 4;
  font: .84rem/1.75 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", "Noto Sans CJK SC", monospace; }
.text b, .text i, .text u, .legend b, .legend i, .legend u { font-weight: inherit; font-style: normal;
  text-decoration: none; padding: .16em 0; }
.text u:nth-child(even) { background: var(--edge); }
.text b, .legend b { background: var(--on); color: var(--on-ink); }
.text b:nth-child(even) { background: var(--on-edge); }
.text i, .legend i { background: var(--sp); color: var(--sp-ink); border-radius: 3px; padding: .16em .2em; }
.text b.s, .legend b.s { background: var(--end); color: var(--end-ink); border-radius: 3px; padding: .16em .2em; }
.text s { text-decoration: none; position: relative; }
.text s.w::before { content: "·"; position: absolute; left: 0; right: 0; text-align: center; opacity: .6; }
.text s.t::before { content: "→"; position: absolute; left: 0; opacity: .6; }
.text s.n::before { content: "↵"; opacity: .5; }
.text s.o::before { content: attr(data-c); font-size: .78em; border: 1px dotted; border-radius: 3px; }
.text em { color: var(--soft); }
footer { color: var(--soft); font-size: .85rem; }
@media (max-width: 40rem) {
  body { padding: 1.4rem .8rem 2rem; }
  section, article { padding: 1rem .9rem; }
  h1 { font-size: 1.4rem; }
  .about { grid-template-columns: 1fr; gap: 0; }
  .about dd { margin: 0 0 .4rem; }
  .text { padding: .6rem .65rem; }
  .histogram { font-size: 19px; }
}
@media print {
  body { background: none; padding: 0; max-width: none; }
  .filter, nav { display: none; }
  .text b, .text i { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
"""

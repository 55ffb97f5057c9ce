"""The style sheet of the comparison's page: system fonts, light and dark, one column on a phone."""

STYLE = """
:root {
  color-scheme: light dark;
  --page: #faf9f6; --card: #fff; --ink: #211f1c; --soft: #635e56; --rule: #e3dfd7; --track: #efece6; --code: #f5f3ee;
  --right: #1b7a3d; --wrong: #b3372b; --mark: #fbe3a3; --mark-ink: #3d2c00; --accent: #0d7a6f; --focus: #0b63c4;
  --hit: 13, 122, 111; --miss: 179, 55, 43;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #151718; --card: #1c1f20; --ink: #e9e6e0; --soft: #a8a298; --rule: #313537; --track: #292d2f;
    --code: #24282a; --right: #66c987; --wrong: #f08a7c; --mark: #574513; --mark-ink: #fbe9bd; --accent: #3dbfae;
    --focus: #7db4f5; --hit: 61, 191, 174; --miss: 240, 138, 124;
  }
}
* { box-sizing: border-box; }
[hidden] { display: none !important; }
body {
  margin: 0 auto; padding: 2.25rem 1.25rem 3rem; max-width: 72rem; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", "Noto Sans CJK SC",
    "WenQuanYi Micro Hei", sans-serif;
  -webkit-text-size-adjust: 100%; overflow-wrap: anywhere;
}
h1 { margin: 0 0 .3rem; font-size: 1.5rem; line-height: 1.25; }
h2 { margin: 0 0 .25rem; font-size: 1.15rem; }
h3 { margin: 0 0 .4rem; font-size: .95rem; }
p { margin: 0; }
small { font-weight: 400; color: var(--soft); font-size: .8rem; }
:focus-visible { outline: 3px solid var(--focus); outline-offset: 2px; }
header { margin: 0 0 1.25rem; }
.verdict { font-size: 1.25rem; font-weight: 600; }
.remark { margin-top: .5rem; padding-left: .7rem; border-left: 3px solid var(--wrong); }
.about { margin-top: .8rem; font-size: .9rem; color: var(--soft); }
.about dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1.1rem; margin: .5rem 0 0; }
.about dd { margin: 0; color: var(--ink); }
summary { cursor: pointer; }
section { margin: 0 0 1.1rem; padding: 1.2rem 1.25rem; background: var(--card); border: 1px solid var(--rule);
  border-radius: 12px; }
.hint, .count { margin: 0 0 .8rem; color: var(--soft); font-size: .9rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
#figures table { width: 100%; min-width: 36rem; }
th, td { padding: .4rem .9rem .4rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--rule); }
th { font-weight: 600; }
th small, td small { display: block; }
td.good { color: var(--right); font-weight: 600; }
td.bad { color: var(--wrong); font-weight: 600; }
td.unclear { color: var(--soft); }
.verdicts { margin: .8rem 0 0; padding-left: 1.2rem; }
.matrices { display: flex; flex-wrap: wrap; gap: 1.2rem 2.2rem; }
.matrix caption { text-align: left; font-weight: 600; padding-bottom: .3rem; }
.matrix th, .matrix td { padding: .25rem .6rem; border: 1px solid var(--rule); }
.matrix td { text-align: right; }
.matrix .hit.s1 { background: rgba(var(--hit), .12); } .matrix .hit.s2 { background: rgba(var(--hit), .25); }
.matrix .hit.s3 { background: rgba(var(--hit), .4); } .matrix .hit.s4 { background: rgba(var(--hit), .55); }
.matrix .miss.s1 { background: rgba(var(--miss), .1); } .matrix .miss.s2 { background: rgba(var(--miss), .2); }
.matrix .miss.s3 { background: rgba(var(--miss), .32); } .matrix .miss.s4 { background: rgba(var(--miss), .45); }
.script { display: none; }
.live .script { display: block; }
button, input, select { font: inherit; color: inherit; background: var(--card); border: 1px solid var(--rule);
  border-radius: 8px; padding: .25rem .7rem; }
button { cursor: pointer; }
button[aria-pressed="true"], #vote-open, #vote-save { background: var(--accent); border-color: var(--accent);
  color: var(--card); }
button:disabled { opacity: .5; cursor: default; }
button.quiet { color: var(--soft); }
.filter { margin: 0 0 .5rem; }
.filter button, .keys button { margin: 0 .3rem .4rem 0; }
.filter label { color: var(--soft); font-size: .9rem; white-space: nowrap; }
kbd { padding: 0 .35rem; border: 1px solid var(--rule); border-radius: 4px; background: var(--code); font: inherit; }
article { padding: 1rem 0; border-top: 1px solid var(--rule); content-visibility: auto;
  contain-intrinsic-size: auto 14rem; }
.tag { margin-left: .5rem; padding: .1rem .5rem; border-radius: 99px; background: var(--track); color: var(--soft);
  font-size: .75rem; font-weight: 400; }
.tag.better { color: var(--right); } .tag.worse { color: var(--wrong); }
.cells, .two { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(17rem, 100%), 1fr)); gap: .8rem;
  margin-top: .6rem; }
.label { margin: 0 0 .2rem; font-size: .85rem; font-weight: 600; }
pre { margin: 0; padding: .55rem .7rem; border-radius: 7px; background: var(--code); white-space: pre-wrap;
  overflow-wrap: anywhere; border-left: 3px solid var(--rule); unicode-bidi: plaintext; text-align: start;
  font: .85rem/1.55 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", "Noto Sans Mono CJK SC",
    "WenQuanYi Micro Hei Mono", monospace; max-height: 26rem; overflow-y: auto; }
pre.prompt { background: none; border-left-color: var(--accent); }
pre i { color: var(--soft); }
.right pre { border-left-color: var(--right); } .wrong pre { border-left-color: var(--wrong); }
.right .mark { color: var(--right); } .wrong .mark { color: var(--wrong); }
.cut { color: var(--wrong); }
mark { background: var(--mark); color: var(--mark-ink); border-radius: 3px; }
.against-expected { display: none; }
.expected .against-expected { display: block; }
.expected .against-expected, .expected .alone .against-first { display: block; }
.expected div:not(.alone) > .against-first { display: none; }
.voting header, .voting section:not(#vote) { display: none; }
.keys { margin-top: .8rem; }
footer { color: var(--soft); font-size: .85rem; }
@media (max-width: 40rem) {
  body { padding: 1.3rem .8rem 2rem; }
  section { padding: .9rem; }
}
@media print {
  body { background: none; max-width: none; padding: 0; }
  .script, .live .script { display: none; }
  pre { max-height: none; }
  article { break-inside: avoid; content-visibility: visible; }
}
"""

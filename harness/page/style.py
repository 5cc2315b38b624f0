"""The style sheet of a page: light and dark, wide and narrow; colours of Okabe and Ito (2008)."""

from harness.page.html import Html

LIGHT = "--ink:#1b1f24;--muted:#5b6570;--grid:#dfe3e8;--surface:#fff;--page:#f6f7f9;--good:#00704f;"
LIGHT += (
    "--bad:#a83c00;--series-0:#0072b2;--series-1:#d55e00;--series-2:#009e73;--series-3:#cc79a7;"
)
LIGHT += "--series-4:#e69f00;--series-5:#56b4e9"
DARK = (
    "--ink:#e8eaed;--muted:#a3acb8;--grid:#343b45;--surface:#1b2027;--page:#12151a;--good:#3fc79a;"
)
DARK += "--bad:#ff9a5c;--series-0:#56b4e9;--series-1:#e69f00;--series-2:#1dbb8c;--series-3:#cc79a7;"
DARK += "--series-4:#f0e442;--series-5:#d55e00"
STYLE = Html(
    f":root{{color-scheme:light dark;{LIGHT}}}"
    f"@media (prefers-color-scheme:dark){{:root{{{DARK}}}}}"
    """
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);line-height:1.5;
 font-family:system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;
 overflow-wrap:break-word}
main{max-width:1120px;margin:0 auto;padding:1.25rem 1rem 3rem}
h1{font-size:1.05rem;letter-spacing:.02em;color:var(--muted);font-weight:600;margin:.25rem 0 1rem}
h2{font-size:1.25rem;line-height:1.3;margin:2.5rem 0 .5rem;border-top:3px solid var(--ink);
 padding-top:1rem}
h3{font-size:1.15rem;margin:2.25rem 0 .75rem}
h4{font-size:1rem;margin:0 0 .5rem}
p{margin:.5rem 0;max-width:46rem}
.lead{font-size:1.4rem;line-height:1.4;margin:.5rem 0 1rem;max-width:52rem}
.lead b{white-space:nowrap}
.note,figcaption,.legend{color:var(--muted);font-size:.9rem}
.cards,.figures{display:grid;gap:1rem}
.cards{grid-template-columns:repeat(auto-fit,minmax(min(100%,10.5rem),1fr));margin:1.25rem 0}
.figures{grid-template-columns:repeat(auto-fit,minmax(min(100%,26rem),1fr))}
.card,figure{background:var(--surface);border:1px solid var(--grid);border-radius:10px;
 padding:1rem;margin:0;min-width:0}
.card b{display:block;font-size:2rem;line-height:1.15;font-weight:650;letter-spacing:-.01em}
.card span{display:block;color:var(--muted);font-size:.9rem}
.card .unit{color:var(--ink);font-size:1rem}
svg.figure{display:block;width:100%;height:auto;max-width:38rem;margin:0 auto}
svg.figure *{stroke-linejoin:round;stroke-linecap:butt}
svg.figure text{font-family:inherit!important}
figcaption{margin:.5rem 0 .25rem}
details{margin:.5rem 0}
summary{cursor:pointer;color:var(--series-0);font-size:.9rem;padding:.2rem 0}
.scroll{overflow-x:auto;max-width:100%;max-height:28rem;overflow-y:auto;margin:.5rem 0}
table{border-collapse:collapse;font-size:.875rem;font-variant-numeric:tabular-nums}
caption{text-align:left;font-weight:600;padding:.25rem 0}
th,td{padding:.3rem .8rem .3rem 0;border-bottom:1px solid var(--grid);text-align:right;
 font-weight:400;white-space:nowrap}
thead th{color:var(--muted);position:sticky;top:0;background:var(--surface)}
section>.scroll thead th,section>details>.scroll thead th{background:var(--page)}
th:first-child{text-align:left}
.words td,.words th{text-align:left;white-space:normal;overflow-wrap:anywhere}
.words tbody th{min-width:9rem}
.legend{display:flex;flex-wrap:wrap;gap:.25rem 1.25rem;margin:0 0 .75rem;padding:0;list-style:none;
 color:var(--ink)}
.legend svg{width:2.2em;height:.8em;margin-right:.4em;vertical-align:middle}
.sentence{font-size:1.1rem;line-height:2.6;margin:.25rem 0 .75rem;max-width:none}
.token{white-space:pre;padding:.3em 1px;border-radius:4px;border-bottom:2px solid var(--series-0);
 margin-right:2px;background:color-mix(in srgb,var(--series-0) calc(var(--early)*55%),transparent)}
.token sub{font-size:.6em;color:var(--ink);opacity:.8;margin-left:1px;vertical-align:-.45em}
.good{color:var(--good);font-weight:600}
.bad{color:var(--bad);font-weight:600}
.warning{border-left:4px solid var(--series-1);padding:.25rem 0 .25rem .8rem}
@media (max-width:600px){main{padding:.75rem .75rem 2rem}.lead{font-size:1.15rem}
 .cards{grid-template-columns:1fr 1fr;gap:.6rem}.card{padding:.7rem}.card b{font-size:1.45rem}
 figure{padding:.75rem .6rem}}
"""
)

"""Style and script of report.html; the page loads nothing else."""

STYLE = """
:root{--ink:#1c2430;--soft:#5c6675;--line:#d9dee6;--back:#f6f7f9;--accent:#3b7dd8}
*{box-sizing:border-box}
body{margin:0;background:var(--back);color:var(--ink);font:16px/1.45 system-ui,sans-serif}
main{max-width:1180px;margin:0 auto;padding:1rem}
h1{font-size:1.5rem;margin:.5rem 0 1rem}
h2{font-size:1.15rem;margin:2rem 0 .5rem}
h3{font-size:1rem;margin:1rem 0 .3rem}
.note{color:var(--soft);font-size:.875rem;margin:.4rem 0;max-width:75ch}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:.6rem}
.tiles div{background:#fff;border:1px solid var(--line);border-radius:8px;padding:.7rem .8rem}
.tiles b{display:block;font-size:1.4rem}
.tiles span{color:var(--soft);font-size:.85rem}
table{border-collapse:collapse;width:100%;background:#fff;border:1px solid var(--line)}
th,td{padding:.4rem .6rem;border-bottom:1px solid var(--line);text-align:left;overflow-wrap:anywhere;vertical-align:top}
th{font-size:.8rem;color:var(--soft);font-weight:600;overflow-wrap:normal}
.filters{display:flex;flex-wrap:wrap;gap:.5rem 1.2rem;align-items:center;margin:.8rem 0}
.filters select{font:inherit;padding:.25rem;max-width:100%}
#count{color:var(--soft);font-size:.875rem}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,340px),1fr));gap:.8rem}
.card{margin:0;background:#fff;border:1px solid var(--line);border-radius:8px;padding:.7rem;min-width:0}
.card[hidden]{display:none}
.two{display:grid;grid-template-columns:1fr 1fr;gap:2px;align-items:center}
.two img{width:100%;height:176px;object-fit:contain;background:var(--back);display:block}
.how{margin:.5rem 0;font-weight:600;font-size:.875rem}
dl{display:grid;grid-template-columns:2.6rem 1fr;gap:.1rem .6rem;margin:0 0 .4rem;font-size:.85rem}
dt{color:var(--soft)}
dd{margin:0;overflow-wrap:anywhere;min-width:0}
.card label{font-size:.85rem;color:var(--soft);display:block;padding:.2rem 0}
textarea{width:100%;font:.8rem/1.4 ui-monospace,monospace}
ul.long{margin:.3rem 0;padding-left:1.2rem;overflow-wrap:anywhere;font-size:.875rem}
.curve{background:#fff;border:1px solid var(--line);padding:.5rem}
.curve svg,.curve img{display:block;width:100%;max-width:640px;height:auto}
pre{overflow-x:auto;background:#fff;border:1px solid var(--line);padding:.7rem;font-size:.8rem}
summary{cursor:pointer}
@media (max-width:720px){
thead{display:none}
table,tbody,tr,td{display:block;width:100%}
tr{border-bottom:1px solid var(--line);padding:.5rem 0}
td{border:0;padding:.1rem .6rem;display:grid;grid-template-columns:42% 1fr;gap:.6rem}
td::before{content:attr(data-name);color:var(--soft);font-size:.85rem}
.two img{height:150px}
}
"""

SCRIPT = """
"use strict";
(() => {
  const cards = [...document.querySelectorAll(".card")];
  const choices = ["benchmark", "tier"].map((id) => document.getElementById(id)).filter(Boolean);
  const count = document.getElementById("count"), vetoes = document.getElementById("vetoes");
  const show = () => {
    let shown = 0;
    for (const card of cards) {
      card.hidden = choices.some((choice) => choice.value && choice.value !== card.dataset[choice.id]);
      shown += card.hidden ? 0 : 1;
    }
    if (count) count.textContent = `${shown} of ${cards.length} pairs shown`;
  };
  const cell = (text) => `"${text.replaceAll('"', '""')}"`;
  const list = () => {
    const ticked = cards.filter((card) => card.querySelector("input").checked);
    const names = ["test", "train", "benchmark", "corpus"];
    const lines = ticked.map((card) => [...names.map((name) => cell(card.dataset[name])), "different"].join(","));
    vetoes.hidden = !ticked.length;
    vetoes.querySelector("textarea").value = [`${names.join(",")},verdict`, ...lines].join("\\n");
  };
  for (const choice of choices) choice.addEventListener("change", show);
  for (const card of cards) card.querySelector("input").addEventListener("change", list);
  if (cards.length) show();
})();
"""

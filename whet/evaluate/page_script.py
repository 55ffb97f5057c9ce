"""The one script of the comparison's page: filter, search, blind vote. It sets plain text only, never markup."""

SCRIPT = """
"use strict";
(() => {
  const by = (id) => document.getElementById(id);
  document.body.classList.add("live");

  const articles = [...document.querySelectorAll("#rows article")];
  const buttons = [...document.querySelectorAll("[data-show]")];
  let kind = "all";
  const filter = () => {
    const text = by("find").value.trim().toLocaleLowerCase();
    let shown = 0;
    for (const article of articles) {
      const fits = kind === "all" || article.dataset.kinds.split(" ").includes(kind);
      const there = fits && (!text || article.textContent.toLocaleLowerCase().includes(text));
      article.hidden = !there;
      shown += there ? 1 : 0;
    }
    by("rows-count").textContent = shown + " of " + articles.length + " rows";
    for (const button of buttons) button.setAttribute("aria-pressed", String(button.dataset.show === kind));
  };
  for (const button of buttons) button.addEventListener("click", () => { kind = button.dataset.show; filter(); });
  by("find").addEventListener("input", filter);
  by("against").addEventListener("change", (event) => {
    document.body.classList.toggle("expected", event.target.value === "expected");
  });
  filter();

  const data = JSON.parse(by("pairs").textContent);
  const place = "whet-votes-" + data.id;
  let votes = [];
  let open = location.search === "?vote";
  try { votes = JSON.parse(localStorage.getItem(place) || "[]"); } catch { votes = []; }
  if (!Array.isArray(votes)) votes = [];
  votes = votes.slice(0, data.rows.length).filter((vote) => ["a", "b", "tie"].includes(vote));
  const keep = () => { try { localStorage.setItem(place, JSON.stringify(votes)); } catch { /* kept in the page */ } };

  const count = () => {
    const wins = [0, 0];
    let ties = 0;
    votes.forEach((vote, i) => {
      if (vote === "tie") { ties += 1; return; }
      wins[data.names.indexOf(data.rows[i][vote + "_is"])] += 1;
    });
    return { wins, ties };
  };
  const tally = () => {
    const { wins, ties } = count();
    by("tally-text").textContent = data.names[1] + " is better in " + wins[1] + ", " + data.names[0] +
      " in " + wins[0] + ", a tie in " + ties + " of " + votes.length + " votes.";
  };
  const draw = () => {
    const done = votes.length >= data.rows.length;
    by("booth").hidden = !open || done;
    document.body.classList.toggle("voting", open && !done && data.rows.length > 0);
    by("tally").hidden = !votes.length || (open && !done);
    by("vote-open").parentElement.hidden = open && !done;
    by("vote-open").textContent = votes.length && !done ? "Go on voting" : "Vote blind";
    by("vote-open").disabled = !data.rows.length || done;
    if (!data.rows.length) by("vote-hint").textContent = "All answers are the same: there is nothing to vote on.";
    if (!by("tally").hidden) tally();
    if (by("booth").hidden) return;
    const row = data.rows[votes.length];
    by("vote-count").textContent = "Row " + (votes.length + 1) + " of " + data.rows.length;
    by("vote-prompt").textContent = row.prompt;
    by("vote-a").textContent = row.a || "(empty)";
    by("vote-b").textContent = row.b || "(empty)";
    by("vote-back").disabled = !votes.length;
  };
  const vote = (choice) => {
    if (!open || votes.length >= data.rows.length) return;
    votes.push(choice);
    keep();
    draw();
  };
  const back = () => { if (open && votes.length) { votes.pop(); keep(); draw(); } };
  const close = () => { open = false; draw(); };
  const lines = () => votes.map((vote, i) => {
    const row = data.rows[i];
    return JSON.stringify({ prompt: row.prompt, a: row.a, b: row.b, vote, a_is: row.a_is, b_is: row.b_is }) + "\\n";
  }).join("");
  by("vote-open").addEventListener("click", () => { open = true; draw(); });
  by("vote-back").addEventListener("click", back);
  by("vote-end").addEventListener("click", close);
  by("vote-again").addEventListener("click", () => { votes = []; keep(); open = true; draw(); });
  for (const button of document.querySelectorAll("[data-vote]")) {
    button.addEventListener("click", () => vote(button.dataset.vote));
  }
  by("vote-save").addEventListener("click", () => {
    const link = document.createElement("a");
    const blob = URL.createObjectURL(new Blob([lines()], { type: "application/jsonl" }));
    link.href = blob;
    link.download = "votes.jsonl";
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(blob), 1000);
  });
  document.addEventListener("keydown", (event) => {
    if (!open || event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    if (["INPUT", "SELECT", "TEXTAREA"].includes(event.target.tagName)) return;
    const choice = { 1: "a", 2: "b", 0: "tie" }[event.key];
    if (choice) vote(choice);
    else if (event.key === "ArrowLeft") back();
    else if (event.key === "Escape") close();
    else return;
    event.preventDefault();
  });
  draw();
})();
"""

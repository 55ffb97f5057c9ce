"use strict";
// The chat page of whet serve: one conversation, kept in this page only. Text is shown as text, never as HTML.

const at = (id) => document.getElementById(id);
const turns = []; // {role, content}
let card = { id: "", chat: true, max_tokens: 0 };
let running = null; // the AbortController of the answer that is being made

function headers() {
  const key = sessionStorage.getItem("key");
  return { "Content-Type": "application/json", ...(key ? { Authorization: `Bearer ${key}` } : {}) };
}

async function problem(response) {
  try {
    return (await response.json()).error.message;
  } catch {
    return `the server answered ${response.status}`;
  }
}

async function open() {
  try {
    const response = await fetch("/v1/models", { headers: headers() });
    if (response.status === 401) return at("locked").showModal();
    if (!response.ok) throw new Error(await problem(response));
    card = (await response.json()).data[0];
  } catch (error) {
    at("note").textContent = String(error.message || error);
    return;
  }
  at("model").textContent = card.id;
  document.title = `${card.id} - whet`;
  at("max_tokens").value = Math.min(512, card.max_tokens);
  at("max_tokens").max = card.max_tokens;
  at("system").disabled = !card.chat;
  at("note").textContent = card.chat ? "" : "This model has no chat template: it continues your text.";
}

function show(role, text) {
  const turn = document.createElement("div");
  turn.className = `turn ${role}`;
  const pre = turn.appendChild(document.createElement("pre"));
  pre.textContent = text;
  at("turns").append(turn);
  turn.scrollIntoView({ block: "end" });
  return turn;
}

function request() {
  const number = (id) => (at(id).value === "" ? undefined : Number(at(id).value));
  const body = {
    model: card.id,
    stream: true,
    stream_options: { include_usage: true },
    temperature: number("temperature"),
    top_p: number("top_p"),
    max_tokens: number("max_tokens"),
    seed: number("seed"),
  };
  if (!card.chat) return ["/v1/completions", { ...body, prompt: turns.at(-1).content }];
  const system = at("system").value.trim();
  const first = system ? [{ role: "system", content: system }] : [];
  return ["/v1/chat/completions", { ...body, messages: [...first, ...turns] }];
}

async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    held += value;
    const parts = held.split("\n\n");
    held = parts.pop();
    for (const part of parts) {
      if (part === "data: [DONE]") return;
      if (part.startsWith("data: ")) yield JSON.parse(part.slice(6));
    }
  }
}

async function answer(turn) {
  const pre = turn.querySelector("pre");
  const [place, body] = request();
  const response = await fetch(place, {
    method: "POST", headers: headers(), body: JSON.stringify(body), signal: running.signal,
  });
  if (response.status === 401) at("locked").showModal();
  if (!response.ok) throw new Error(await problem(response));
  let begun = 0;
  for await (const event of events(response)) {
    if (event.error) throw new Error(event.error.message);
    for (const choice of event.choices) {
      const more = card.chat ? choice.delta.content : choice.text;
      if (more) {
        begun ||= performance.now();
        pre.textContent += more;
        turn.scrollIntoView({ block: "end" });
      }
      if (choice.finish_reason === "length") turn.dataset.cut = "yes";
    }
    if (event.usage) facts(turn, event.usage.completion_tokens, (performance.now() - begun) / 1000);
  }
}

function facts(turn, tokens, seconds) {
  const line = turn.appendChild(document.createElement("div"));
  line.className = "facts";
  const speed = tokens > 1 && seconds > 0 ? `, ${((tokens - 1) / seconds).toFixed(1)} tokens/s` : "";
  line.textContent = `${tokens} tokens${speed}${turn.dataset.cut ? ", cut at the longest answer" : ""}`;
  turn.scrollIntoView({ block: "end" });
}

async function ask(text) {
  at("note").textContent = "";
  turns.push({ role: "user", content: text });
  const question = show("user", text);
  const turn = show("assistant", "");
  running = new AbortController();
  at("send").hidden = true;
  at("stop").hidden = false;
  try {
    await answer(turn);
  } catch (error) {
    if (error.name !== "AbortError") at("note").textContent = String(error.message || error);
  }
  running = null;
  at("send").hidden = false;
  at("stop").hidden = true;
  const said = turn.querySelector("pre").textContent;
  if (said && card.chat) {
    turns.push({ role: "assistant", content: said });
    return;
  }
  turns.pop(); // a question without an answer would leave two user turns in a row
  if (!said) {
    question.remove();
    turn.remove();
    at("text").value = text;
  }
}

at("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = at("text").value;
  if (running || !text.trim()) return;
  at("text").value = "";
  ask(text);
});
at("text").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    at("ask").requestSubmit();
  }
});
at("stop").addEventListener("click", () => running?.abort());
at("new").addEventListener("click", () => {
  running?.abort();
  turns.length = 0;
  at("turns").replaceChildren();
  at("text").focus();
});
at("locked").addEventListener("close", () => {
  sessionStorage.setItem("key", at("key").value);
  open();
});
open();

// The page's behaviour: asks for a list, shows it as a product would, sends what happens to it.
// It knows nothing about how lists are made. Every text goes in as text, never as HTML.

const EXAMPLES = {
  suggest: [
    { name: "Kyoto in autumn", query: "when is the best time to see autumn leaves in kyoto", answer: "The leaves in Kyoto are usually at their best from mid November "
      + "to early December. Hillside temples such as Kiyomizu-dera turn first; go early in the morning to avoid the crowds." },
    { name: "Sourdough", query: "how to make a sourdough starter", answer: "Mix equal parts of flour and water, and feed it every day for a week "
      + "until it doubles within a few hours." },
    { name: "Without an answer", query: "electric cars with the longest range", answer: "" },
  ],
  snippets: [
    { name: "Birthday speech", query: "write a birthday speech for my sister" },
    { name: "Cover letter", query: "write a cover letter for a nursing job" },
    { name: "Poem", query: "write a poem about the sea" },
  ],
  hint: [
    { name: "Baking bread", session: "sourdough starter\nsourdough bread recipe\nwhy is my bread so dense" },
    { name: "A trip to Lisbon", session: "flights to lisbon\nhotels in alfama" },
    { name: "Learning guitar", session: "acoustic guitar for beginners\nhow to tune a guitar" },
  ],
  clarify: [{ name: "Jaguar", query: "jaguar" }, { name: "Mercury", query: "mercury" }, { name: "Python", query: "python" }],
  predict: [
    { name: "New runner", history: [["search", "running shoes for flat feet"], ["click", "couch to 5k training plan"], ["purchase", "running shoes"], ["search", "how to avoid shin splints"]] },
    { name: "Home garden", history: [["search", "raised garden bed ideas"], ["purchase", "tomato seeds"], ["visit", "when to plant tomatoes outdoors"]] },
  ],
};
const SOURCES = { search: "Searched", click: "Clicked", purchase: "Bought", visit: "Visited" };
const RUNGS = { model: "the language model", cor: "what people typed next", popular: "popular queries", none: "nothing" };
const REASONS = {
  no_policy: "No model is installed",
  locale_not_supported: "The model does not know this language",
  nothing_to_go_on: "There was no query to start from",
  deadline: "The model did not finish in time",
  engine_busy: "Too many requests are waiting for the model",
  engine_error: "The model failed on this request",
  unparsable: "What the model wrote could not be read as a list",
  nothing_fit_to_show: "Nothing that the model wrote was fit to show",
  incomplete_texts: "The model left out a part of the text around the list",
};
const POLL_MS = 2000;
const REPLY_MS = 15000;
const MOST_EARLIER = 50;

const person = { session: `s-${randomHex()}`, user: rememberedUser() };
const conversation = []; // the questions of the suggest task, oldest first
const waiting = new Map(); // task -> AbortController of its request
let ready = false;

// ---- small tools
const find = (selector, root = document) => root.querySelector(selector);
const taskSection = (task) => find(`#task-${task}`);
const stageOf = (task) => find(".stage", taskSection(task));
const fieldsOf = (task) => find("form", taskSection(task)).elements;
const linesOf = (text) => text.split("\n").map((line) => line.trim()).filter(Boolean);
const capitalised = (text) => text.charAt(0).toUpperCase() + text.slice(1);

function make(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children); // strings become text nodes
  return node;
}

function randomHex() {
  return Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function rememberedUser() {
  const fresh = `u-${randomHex()}`;
  try {
    const known = localStorage.getItem("nextquery.user") ?? fresh;
    localStorage.setItem("nextquery.user", known);
    return known;
  } catch {
    return fresh; // storage is forbidden in this browser
  }
}

// ---- calls
async function post(path, body, signal = new AbortController().signal) {
  let response;
  try {
    response = await fetch(path, {
      method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body),
      signal: AbortSignal.any([signal, AbortSignal.timeout(REPLY_MS)]),
    });
  } catch (error) {
    const late = error.name === "TimeoutError";
    throw new Error(`The service ${late ? "did not answer in time" : "cannot be reached"}. Check that it is running, then try again.`);
  }
  const reply = await response.json().catch(() => null);
  if (!response.ok || reply === null) throw new Error(problemSentence(reply, response.status));
  return reply;
}

function problemSentence(problem, status) {
  const fields = (problem?.errors ?? []).map((error) => `${capitalised(error.field)}: ${error.message}`);
  return [problem?.detail ?? `The service answered ${status} without saying why.`, ...fields].join(" ");
}

async function ask(task, more = {}) {
  waiting.get(task)?.abort();
  const controller = new AbortController();
  waiting.set(task, controller);
  const body = { task, ...TASKS[task].read(fieldsOf(task)), ...more, explain: true, session_id: person.session, user_id: person.user };
  taskSection(task).ariaBusy = "true";
  showError(task, "");
  try {
    const reply = await post("/recommend", body, controller.signal);
    TASKS[task].show(stageOf(task), reply, body);
    describe(reply);
    if (reply.queries.length) sendEvent(reply, "seen", 0);
  } catch (error) {
    if (!controller.signal.aborted) showError(task, error.message);
  } finally {
    if (waiting.get(task) === controller) taskSection(task).ariaBusy = "false";
  }
}

async function sendEvent(reply, kind, position, query) {
  const row = eventRow(reply, kind, position, query ?? reply.queries[position - 1]?.text);
  try {
    const answer = await post("/click", {
      click_token: reply.click_token, kind, position, query, at: new Date().toISOString(),
      session_id: person.session, user_id: person.user,
    });
    settle(row, answer.results[0].status, answer.results[0].reason);
  } catch (error) {
    settle(row, "problem", error.message);
  }
}

function showError(task, sentence) {
  const place = find(".error", taskSection(task));
  place.textContent = sentence;
  place.hidden = !sentence;
}

// ---- the five tasks: `read` makes the request from the form, `show` puts the list on the stage
const TASKS = {
  suggest: {
    read: ({ query, answer }) => ({ query: query.value, answer: answer.value.trim() || null, session: conversation.slice(-MOST_EARLIER) }),
    show: showConversation,
  },
  snippets: { read: ({ query }) => ({ query: query.value }), show: showSnippets },
  hint: { read: ({ session }) => ({ session: linesOf(session.value).slice(-MOST_EARLIER) }), show: showHint },
  clarify: { read: ({ query }) => ({ query: query.value }), show: showQuestion },
  predict: { read: ({ n }) => ({ n: Number(n.value), history: readHistory() }), show: showPrediction },
};

function showConversation(stage, reply, body) {
  const onList = stage.contains(document.activeElement);
  find(".list, .quiet", stage)?.remove(); // only the last turn's follow-ups can be clicked
  const list = listOf(reply, "chips", (item) => {
    setFields("suggest", { query: item.text, answer: "" });
    ask("suggest", { origin: "clicked" });
  });
  const missing = body.answer ? "" : " missing";
  const answer = body.answer ?? "The assistant’s answer stands here in a product.";
  stage.append(make("p", { className: "bubble asked", textContent: body.query }), make("p", { className: `bubble answered${missing}`, textContent: answer }), list);
  if (onList) find("button", list)?.focus({ preventScroll: true }); // the button that had it is gone
  list.scrollIntoView({ block: "nearest" });
  conversation.push(body.query);
  setFields("suggest", { query: "", answer: "" });
  find("#restart").hidden = false;
}

function showSnippets(stage, reply) {
  const request = make("p", { className: "request" });
  const { guide = "", prefix = "", suffix = "" } = reply.texts;
  const gap = !suffix || /^[,.;:!?]/.test(suffix) ? "" : " ";
  const preview = (item) => request.replaceChildren(`${prefix} `, make("mark", { textContent: item.text }), gap + suffix);
  const list = listOf(reply, "snippets", preview, preview);
  stage.replaceChildren(make("p", { className: "guide", textContent: guide }), list, request);
  if (reply.queries.length) preview(reply.queries[0]);
  else request.remove();
}

function showHint(stage, reply) {
  const [hint] = reply.queries;
  const box = find("#search-box");
  Object.assign(box, { value: "", placeholder: hint ? capitalised(hint.text) : "Search" });
  find("#search").onsubmit = (event) => {
    event.preventDefault();
    if (box.value.trim()) search(box.value.trim(), sendEvent(reply, "submit", 0, box.value.trim()));
    else find(".list button", stage)?.click(); // an empty box searches its hint
  };
  const list = listOf(reply, "chips", (item) => { box.value = item.text; search(item.text); });
  stage.replaceChildren(make("div", { className: "proposal" }, hint ? make("span", { className: "quiet", textContent: "Proposed:" }) : "", list));
}

function search(query) {
  const { session } = fieldsOf("hint");
  session.value = [...linesOf(session.value).filter((line) => line !== query), query].join("\n");
}

function showQuestion(stage, reply) {
  const outcome = make("p", { className: "outcome" });
  const list = listOf(reply, "options", (item) => { outcome.replaceChildren("The search goes on with: ", make("b", { className: "text", textContent: item.text })); });
  stage.replaceChildren(make("div", { className: "pane" }, make("p", { className: "question", textContent: reply.texts.question ?? "" }), list, outcome));
}

function showPrediction(stage, reply) {
  stage.replaceChildren(listOf(reply, "ranked", () => {}));
}

function listOf(reply, kind, onClick, onPoint = () => {}) {
  if (!reply.queries.length) return make("p", { className: "quiet", textContent: `Nothing to show. ${whyDegraded(reply) ?? ""}` });
  return make("ul", { className: `list ${kind}`, role: "list" }, ...reply.queries.map((item) => {
    const button = make("button", { type: "button", ariaPressed: "false" }, make("span", { className: "text", textContent: item.text }));
    button.onpointerenter = button.onfocus = () => onPoint(item);
    button.onclick = () => {
      button.ariaPressed = "true";
      sendEvent(reply, "click", item.position);
      onClick(item);
    };
    return make("li", {}, button);
  }));
}

// ---- the history editor of predict
function historyRow(source = "search", text = "") {
  const options = Object.entries(SOURCES).map(([value, label]) => make("option", { value, textContent: label, selected: value === source }));
  const remove = make("button", { type: "button", textContent: "×", ariaLabel: "Remove this line", title: "Remove this line" });
  const row = make("li", {}, make("select", { ariaLabel: "What happened" }, ...options), make("input", { type: "text", value: text, maxLength: 500, ariaLabel: "Text" }), remove);
  remove.onclick = () => row.remove();
  return row;
}

function readHistory() {
  const rows = [...document.querySelectorAll("#history li")];
  return rows.map((row) => ({ source: find("select", row).value, text: find("input", row).value.trim() })).filter((item) => item.text);
}

function setFields(task, values) {
  for (const [name, value] of Object.entries(values)) {
    if (name === "history") find("#history").replaceChildren(...value.map(([source, text]) => historyRow(source, text)));
    else if (name !== "name") fieldsOf(task)[name].value = value;
  }
}

function restart() {
  conversation.length = 0;
  stageOf("suggest").replaceChildren();
  find("#restart").hidden = true;
  setFields("suggest", EXAMPLES.suggest[0]);
}

// ---- the side panel
function whyDegraded({ degraded_reason: reason, served_by: rung }) {
  if (!reason) return null;
  const unavailable = ready ? "The model is not available just now" : "The model is still loading";
  const cause = reason === "engine_unavailable" ? unavailable : REASONS[reason] ?? `The model gave no full answer (${reason})`;
  const effect = { popular: ": popular queries are shown.", none: ", and no popular queries can stand in." };
  return cause + (effect[rung] ?? ".");
}

function describe(reply) {
  const why = whyDegraded(reply);
  const facts = {
    Task: reply.task, "Served by": RUNGS[reply.served_by] ?? reply.served_by,
    Policy: reply.versions.policy ?? "none", "Co-occurrence": reply.versions.cor ?? "none", Time: `${Math.round(reply.timings_ms.total ?? 0)} ms`,
    Recorded: reply.recorded ? "yes, before it was shown" : "not yet: the database was slow",
    Impression: reply.impression_id.slice(0, 8),
  };
  find("#facts").replaceChildren(...Object.entries(facts).flatMap(([name, value]) => [make("dt", { textContent: name }), make("dd", { textContent: value })]));
  Object.assign(find("#degraded"), { textContent: why ?? "", hidden: !why });
  find("#prompt").textContent = reply.explain?.prompt ?? "No prompt was written.";
  find("#completion").textContent = reply.explain?.completion ?? "The model wrote nothing.";
  const dropped = [...new Set(reply.explain?.prompt_dropped)].join(", ");
  Object.assign(find("#dropped"), { textContent: `Shortened or left out to fit: ${dropped}`, hidden: !dropped });
  find("#list").hidden = false;
  find("#no-list").hidden = true;
  if (reply.degraded_reason === "engine_unavailable" && ready) watchReadiness();
}

function eventRow(reply, kind, position, text) {
  const what = position ? `${kind} · position ${position}` : `${kind} · whole list`;
  const status = make("span", { className: "status", textContent: "sending…" });
  const detail = make("p", { className: "detail", textContent: `${new Date().toLocaleTimeString("en-GB")} · list ${reply.impression_id.slice(0, 8)}` });
  const row = make("li", {}, make("div", { className: "event" }, make("span", { textContent: what }), status));
  if (text) row.append(make("p", { className: "text", textContent: text }));
  row.append(detail);
  find("#events").prepend(row);
  find("#no-events").hidden = true;
  return row;
}

function settle(row, status, reason) {
  const place = find(".status", row);
  place.textContent = status;
  place.classList.add(["stored", "duplicate"].includes(status) ? status : "problem");
  if (reason) row.append(make("p", { className: "detail", textContent: reason }));
}

// ---- readiness
async function watchReadiness() {
  for (ready = false; !ready; ) {
    const [state, sentence] = await readiness();
    ready = state === "ready";
    find("#readiness").className = `readiness ${state}`;
    find("#readiness").textContent = sentence;
    if (!ready) await new Promise((wake) => setTimeout(wake, POLL_MS));
  }
}

async function readiness() {
  try {
    const response = await fetch("/readyz", { signal: AbortSignal.timeout(REPLY_MS) });
    const { parts } = await response.json();
    if (response.ok) return ["ready", parts.engine === "off" ? "Ready, without a model" : "Ready"];
    if (parts?.engine?.startsWith("no policy")) return ["away", "No model can be served"];
    if (parts?.database === "away") return ["away", "The database is away"];
    return ["loading", "The model is loading…"];
  } catch {
    return ["away", "The service cannot be reached"];
  }
}

// ---- start
function showTask() {
  const chosen = location.hash.slice(1) in TASKS ? location.hash.slice(1) : "suggest";
  for (const task of Object.keys(TASKS)) taskSection(task).hidden = task !== chosen;
  for (const link of document.querySelectorAll(".tasks a")) link.ariaCurrent = link.hash === `#${chosen}` ? "page" : null;
}

function prepare(task) {
  setFields(task, EXAMPLES[task][0]);
  const tries = EXAMPLES[task].map((example) => {
    const button = make("button", { type: "button", className: "plain", textContent: example.name });
    button.onclick = () => { if (task === "suggest") restart(); setFields(task, example); ask(task); };
    return button;
  });
  find(".examples", taskSection(task)).append("Try", ...tries);
  const form = find("form", taskSection(task));
  form.onsubmit = (event) => { event.preventDefault(); ask(task); };
  form.onkeydown = (event) => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit(); };
}

Object.keys(TASKS).forEach(prepare);
fieldsOf("suggest").query.oninput = () => { // an example's answer answers no other question
  const { answer } = fieldsOf("suggest");
  if (EXAMPLES.suggest.some((example) => example.answer === answer.value)) answer.value = "";
};
find("#add-row").onclick = () => { const row = historyRow(); find("#history").append(row); find("input", row).focus(); };
find("#restart").onclick = restart;
find("#search").onsubmit = (event) => { event.preventDefault(); showError("hint", "Get a hint first: what happens in the box belongs to a list."); };
addEventListener("hashchange", showTask);
showTask();
watchReadiness();

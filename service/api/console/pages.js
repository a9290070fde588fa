// What pages that the service draws do: one that is live is drawn again every two seconds, and a change is asked for once more.
// It knows nothing about what is on them.

const EVERY_MS = 2000;

async function refresh() {
  const shown = document.querySelector("main");
  if (!shown.hasAttribute("data-live")) return;
  try {
    const reply = await fetch(location.href, { headers: { accept: "text/html" } });
    if (reply.ok) replace(shown, new DOMParser().parseFromString(await reply.text(), "text/html").querySelector("main"));
  } catch {
    // the service restarts: what stands there stays, and the next look may find it
  }
  setTimeout(refresh, EVERY_MS);
}

function replace(shown, fresh) {
  for (const open of shown.querySelectorAll("details[open]")) {
    fresh.querySelector(`#${CSS.escape(open.id)}`)?.setAttribute("open", "");
  }
  shown.replaceWith(document.adoptNode(fresh));
}

setTimeout(refresh, EVERY_MS);

// A button with `data-call` posts its `data-body` there, once the dialog was confirmed.
document.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-call]");
  if (button) ask(button);
});

function ask(button) {
  const dialog = document.querySelector("#confirm");
  dialog.querySelector("#question").textContent = button.dataset.question;
  dialog.querySelector("#answer").textContent = "";
  const confirmed = dialog.querySelector("#confirmed");
  confirmed.textContent = button.textContent;
  confirmed.onclick = () => call(button, dialog);
  dialog.querySelector("#cancelled").onclick = () => dialog.close();
  dialog.showModal();
}

async function call(button, dialog) {
  try {
    const headers = { "content-type": "application/json" };
    const reply = await fetch(button.dataset.call, { method: "POST", headers, body: button.dataset.body });
    if (reply.ok) location.reload();
    else dialog.querySelector("#answer").textContent = (await reply.json()).detail;
  } catch {
    dialog.querySelector("#answer").textContent = "The service does not answer. Nothing may have changed: look again.";
  }
}

// Shows a run that is under way again every two seconds, as the service draws it. It knows nothing about stages.

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

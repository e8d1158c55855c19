// Keeps a page up to date: the server sends rendered HTML elements, and each replaces the element with the same id.
"use strict";

const main = document.querySelector("[data-events]");
const connection = document.getElementById("connection");
const events = new EventSource(main.dataset.events);

events.addEventListener("part", (event) => {
  const template = document.createElement("template");
  template.innerHTML = event.data.trim();
  const part = template.content.firstElementChild;
  const old = document.getElementById(part.id);
  if (!old) return location.reload();
  if (old.outerHTML === part.outerHTML) return;
  // The keyboard focus stays on the same button.
  const focused = old.contains(document.activeElement) ? document.activeElement.id : "";
  old.replaceWith(part);
  if (focused) document.getElementById(focused)?.focus();
});

events.addEventListener("ready", () => {
  events.close();
  // When a reload led back to this page, the next one waits, so that the page does not reload in a tight loop.
  const again = performance.getEntriesByType("navigation")[0]?.type === "reload";
  setTimeout(() => location.reload(), again ? 2000 : 0);
});

events.addEventListener("reload", () => {
  events.close();
  location.reload();
});

events.addEventListener("open", () => { connection.textContent = ""; });

events.addEventListener("error", () => {
  connection.textContent = "Connection lost. Reconnecting…";
  // CLOSED means that the server refused the request, most likely after a sign-out. A reload shows the sign-in page then.
  if (events.readyState === EventSource.CLOSED) setTimeout(() => location.reload(), 3000);
});

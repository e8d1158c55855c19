// Keeps a page up to date: the server sends parts of it, rendered, each with the id of what it replaces.
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
  // Whoever is on a button with the keyboard stays there.
  const focused = old.contains(document.activeElement) ? document.activeElement.id : "";
  old.replaceWith(part);
  if (focused) document.getElementById(focused)?.focus();
});

events.addEventListener("ready", () => {
  events.close();
  // After a reload that led here again, not as fast as the machine can.
  const again = performance.getEntriesByType("navigation")[0]?.type === "reload";
  setTimeout(() => location.reload(), again ? 2000 : 0);
});

events.addEventListener("reload", () => {
  events.close();
  location.reload();
});

events.addEventListener("open", () => { connection.textContent = ""; });

events.addEventListener("error", () => {
  connection.textContent = "The connection to the server was lost; trying again…";
  // Closed for good means refused: signed out, most likely. The page itself knows what to do.
  if (events.readyState === EventSource.CLOSED) setTimeout(() => location.reload(), 3000);
});

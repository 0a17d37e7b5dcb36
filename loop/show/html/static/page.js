// What makes pages handier; every page works without it.

// "/" goes to the search, as in many programs.
document.addEventListener("keydown", (event) => {
  const isTyping = /^(INPUT|TEXTAREA|SELECT)$/.test(document.activeElement.tagName);
  if (event.key === "/" && !isTyping && !event.ctrlKey && !event.metaKey && !event.altKey) {
    event.preventDefault();
    document.getElementById("find").focus();
  }
});

// Fields that are left empty stay out of the address.
for (const form of document.querySelectorAll("form[method=get]")) {
  form.addEventListener("submit", () => {
    for (const field of form.elements) {
      field.disabled = field.name !== "" && field.value === "";
    }
  });
}
window.addEventListener("pageshow", () => {
  for (const field of document.querySelectorAll("form[method=get] :disabled")) {
    field.disabled = false;
  }
});

// A page that is being prepared, or of a run that goes on, is loaded anew while nobody reads further down.
const main = document.querySelector("main[data-reload]");
if (main) {
  setInterval(() => {
    const isIdle = document.activeElement === document.body && window.scrollY === 0;
    if (isIdle && document.visibilityState === "visible") {
      location.reload();
    }
  }, 1000 * Number(main.dataset.reload));
}

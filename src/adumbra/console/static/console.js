"use strict";
// Light and dark: as the system has it, or as whoever looks chose. Runs in a page's head, so that nothing flickers.
(() => {
  const root = document.documentElement;
  const KEY = "adumbra-theme";
  const system = matchMedia("(prefers-color-scheme: dark)");
  const chosen = () => { try { return localStorage.getItem(KEY); } catch { return null; } };
  const show = () => {
    const theme = chosen() || (system.matches ? "dark" : "light");
    root.dataset.theme = theme;
    if (document.body) {
      document.body.classList.toggle("body--dark", theme === "dark");
      document.body.classList.toggle("body--light", theme !== "dark");
    }
    const button = document.getElementById("theme");
    if (button) button.setAttribute("aria-label", theme === "dark" ? "Use light colours" : "Use dark colours");
  };
  show();
  system.addEventListener("change", show);
  document.addEventListener("click", (event) => {
    const button = event.target.closest && event.target.closest("#theme");
    if (!button) return;
    try { localStorage.setItem(KEY, root.dataset.theme === "dark" ? "light" : "dark"); } catch { /* then it lasts for this page */ }
    show();
  });
  // NiceGUI sets its own classes once it has started.
  const settle = () => new MutationObserver(() => {
    const dark = root.dataset.theme === "dark";
    if (document.body.classList.contains("body--dark") !== dark) show();
  }).observe(document.body, { attributes: true, attributeFilter: ["class"] });
  if (document.body) settle(); else document.addEventListener("DOMContentLoaded", () => { show(); settle(); });
})();

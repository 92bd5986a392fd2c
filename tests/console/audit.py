# ruff: noqa: E501 lines of another language
"""What a page owes those who use a keyboard, a screen reader or a dim screen, looked for in the browser. In place of axe."""

from __future__ import annotations

AUDIT = r"""
() => {
  const found = [];
  const say = (what, element) => found.push(what + ": " + (element ? element.outerHTML.slice(0, 160) : ""));
  const shown = (element) => {
    if (!element.checkVisibility || !element.checkVisibility({ opacityProperty: true, visibilityProperty: true })) return false;
    const box = element.getBoundingClientRect();
    return box.width > 1 && box.height > 1;
  };
  const name = (element) => {
    const by = (element.getAttribute("aria-labelledby") || "").split(/\s+/).filter(Boolean);
    const named = by.map((id) => document.getElementById(id)?.textContent || "").join(" ");
    const label = element.labels ? [...element.labels].map((each) => each.textContent).join(" ") : "";
    const wrapped = element.closest("label")?.textContent || "";
    return (element.getAttribute("aria-label") || named || label || wrapped || element.getAttribute("title") ||
      element.querySelector("desc, title")?.textContent || element.textContent || element.getAttribute("alt") || "").trim();
  };
  if (!document.documentElement.lang) say("the page has no language");
  if (!document.title.trim()) say("the page has no title");
  if (document.querySelectorAll("main").length !== 1) say("there must be one main part");
  if (document.querySelectorAll("h1").length !== 1) say("there must be one h1");
  let last = 0;
  for (const each of document.querySelectorAll("h1, h2, h3, h4")) {
    const level = Number(each.tagName[1]);
    if (level > last + 1) say("a heading skips a level", each);
    if (!each.textContent.trim()) say("a heading is empty", each);
    last = level;
  }
  const ids = new Set();
  for (const each of document.querySelectorAll("[id]")) {
    if (ids.has(each.id)) say("an id stands twice", each);
    ids.add(each.id);
  }
  for (const each of document.querySelectorAll("input, select, textarea")) {
    if (each.type === "hidden" || !shown(each)) continue;
    if (!name(each)) say("a field has no label", each);
  }
  for (const each of document.querySelectorAll("button, a[href], [role=button], [role=slider], [role=img], img, iframe, summary")) {
    if (each.hasAttribute("aria-hidden")) continue;
    if (shown(each) && !name(each)) say("it has no name", each);
  }
  for (const each of document.querySelectorAll("[role=slider]"))
    if (!each.getAttribute("aria-valuetext") && !each.getAttribute("aria-valuenow")) say("a slider tells no value", each);
  for (const each of document.querySelectorAll("svg"))
    if (shown(each) && !each.closest("[aria-hidden=true], [role=img], button, .brand") && each.getAttribute("role") !== "img")
      say("a picture has no role", each);
  for (const each of document.querySelectorAll("table"))
    if (!each.querySelector("th[scope=col]") || (!each.caption && !each.closest("[aria-label]"))) say("a table has no heads or name", each);
  for (const each of document.querySelectorAll("[tabindex]"))
    if (Number(each.getAttribute("tabindex")) > 0) say("a tab order is forced", each);

  const parsed = (text) => { const all = (text.match(/[\d.]+/g) || []).map(Number); return { rgb: all.slice(0, 3), a: all.length > 3 ? all[3] : 1 }; };
  const light = (rgb) => {
    const [r, g, b] = rgb.map((each) => { const c = each / 255; return c <= .03928 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4; });
    return .2126 * r + .7152 * g + .0722 * b;
  };
  const behind = (element) => {
    for (let each = element; each; each = each.parentElement) {
      const { rgb, a } = parsed(getComputedStyle(each).backgroundColor);
      if (a > .95) return rgb;
    }
    return [255, 255, 255];
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const told = new Set();
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const element = node.parentElement;
    if (!node.textContent.trim() || !element || !shown(element) || element.closest("svg, script, style, .skip, .unseen, option, .q-field--disabled")) continue;
    const style = getComputedStyle(element);
    const a = light(parsed(style.color).rgb), b = light(behind(element));
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    const large = parseFloat(style.fontSize) >= 24 || (parseFloat(style.fontSize) >= 18.66 && Number(style.fontWeight) >= 700);
    const key = style.color + b;
    if (ratio < (large ? 3 : 4.5) && !told.has(key)) { told.add(key); say("contrast " + ratio.toFixed(2) + " of " + style.color, element); }
  }
  const wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
  if (wide > 1) say("the page is wider than the screen by " + wide);
  return found;
}
"""
"""Gives what is wrong, a line each; nothing where all is well."""

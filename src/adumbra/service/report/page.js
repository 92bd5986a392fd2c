"use strict";
// Draws the figures of a report from the data that stands in the page. Asks nothing of any server.
(() => {
  const data = JSON.parse(document.getElementById("figures").textContent);
  const CONFIG = {
    responsive: true, displayModeBar: false,
  };

  // A colour is written as the name of a variable of the style sheet, so that it follows the reader's theme.
  const resolved = (value, style) => {
    if (typeof value === "string") return value.startsWith("--") ? style.getPropertyValue(value).trim() : value;
    if (Array.isArray(value)) return value.map((each) => resolved(each, style));
    if (value && typeof value === "object")
      return Object.fromEntries(Object.entries(value).map(([key, each]) => [key, resolved(each, style)]));
    return value;
  };

  const overlap = (a, b) =>
    Math.max(0, Math.min(a.right, b.right) - Math.max(a.left, b.left)) *
    Math.max(0, Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top));

  const context = document.createElement("canvas").getContext("2d");
  const width = (text, font) => { context.font = font; return context.measureText(text).width; };

  // Where a label of w x h may stand around a point: nearest first, to the right before to the left.
  const places = (x, y, w, h) => {
    const found = [];
    for (const away of [9, 20, 34, 50, 70, 95])
      for (const [dx, dy] of [[1, 0], [-1, 0], [0, -1], [0, 1], [.8, -.7], [.8, .7], [-.8, -.7], [-.8, .7]]) {
        const cx = x + dx * (away + w / 2), cy = y + dy * (away + h / 2);
        found.push({ away, left: cx - w / 2, right: cx + w / 2, top: cy - h / 2, bottom: cy + h / 2 });
      }
    return found;
  };

  // Puts each label where it hides no other label, no point and no curve, with a line to its point where it isn't beside it.
  const place = (element, figure, style, small) => {
    const full = element._fullLayout, size = small ? 10 : 11.5;
    const font = `${size}px ${full.font.family}`;
    const at = (x, y) => ({ x: full.xaxis.d2p(x), y: full.yaxis.d2p(y) });
    const box = (point, r) => ({ left: point.x - r, right: point.x + r, top: point.y - r, bottom: point.y + r });
    const inner = { right: full.xaxis._length, bottom: full.yaxis._length };
    const taken = [];
    for (const trace of figure.data)
      for (let i = 0; i < trace.x.length; i++) {
        const here = at(trace.x[i], trace.y[i]);
        taken.push({ ...box(here, 6), weight: 3 });
        if (!(trace.mode || "").includes("lines") || i === 0) continue;
        const last = at(trace.x[i - 1], trace.y[i - 1]);
        for (let k = 1; k < 16; k++)
          taken.push({ ...box({ x: last.x + (here.x - last.x) * k / 16, y: last.y + (here.y - last.y) * k / 16 }, 2), weight: 1 });
      }
    return figure.labels.map((label) => {
      const point = at(label.x, label.y), w = width(label.text, font) + 6, h = size + 5;
      let best = null;
      for (const where of places(point.x, point.y, w, h)) {
        const outside = Math.max(0, -where.left) + Math.max(0, where.right - inner.right) +
          Math.max(0, -where.top) + Math.max(0, where.bottom - inner.bottom);
        const cost = where.away + 60 * outside + taken.reduce((sum, each) => sum + each.weight * overlap(where, each), 0);
        if (best === null || cost < best.cost) best = { ...where, cost };
      }
      taken.push({ ...best, weight: 8 });
      const cx = (best.left + best.right) / 2, cy = (best.top + best.bottom) / 2;
      return {
        x: full.xaxis.type === "log" ? Math.log10(label.x) : label.x, y: full.yaxis.type === "log" ? Math.log10(label.y) : label.y,
        ax: cx - point.x, ay: cy - point.y, axref: "pixel", ayref: "pixel", text: label.html,
        showarrow: true, arrowhead: 0, arrowwidth: .8, arrowcolor: best.away > 12 ? style.getPropertyValue("--dim").trim() : "rgba(0,0,0,0)",
        standoff: 5, borderpad: 1, font: { size, color: resolved(label.color, style) }, captureevents: false,
      };
    });
  };

  const draw = async (element) => {
    const figure = data[element.dataset.figure], style = getComputedStyle(document.documentElement);
    const ink = style.getPropertyValue("--ink").trim(), line = style.getPropertyValue("--line").trim();
    const small = element.clientWidth < 560;
    const layout = resolved(figure.layout, style);
    const axis = { gridcolor: line, linecolor: line, zerolinecolor: line, tickcolor: line, automargin: true };
    for (const name of ["xaxis", "yaxis"]) layout[name] = { ...axis, ...layout[name] };
    Object.assign(layout, {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: ink, size: small ? 11 : 12.5, family: getComputedStyle(document.body).fontFamily },
      hoverlabel: { align: "left", bgcolor: style.getPropertyValue("--panel").trim(), bordercolor: line, font: { color: ink, size: 12 } },
    });
    layout.annotations = layout.annotations || [];
    if (small && layout.legend) layout.legend.font = { size: 10 };
    await Plotly.react(element, resolved(figure.data, style), layout, CONFIG);
    if (figure.labels) await Plotly.relayout(element, { annotations: [...layout.annotations, ...place(element, figure, style, small)] });
  };

  const plots = [...document.querySelectorAll(".plot")];
  // One after another, and those in sight first: a page of many plots is read before all of them stand.
  const drawAll = async () => {
    for (const element of plots) await draw(element);
    document.documentElement.dataset.drawn = "yes";
  };
  drawAll();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  let last = innerWidth, waiting = 0;
  addEventListener("resize", () => {
    if (innerWidth === last) return;
    last = innerWidth;
    clearTimeout(waiting);
    waiting = setTimeout(drawAll, 200);
  });
})();

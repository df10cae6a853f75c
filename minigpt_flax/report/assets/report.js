"use strict";
// Curves of runs on a canvas: zoom, hover, toggle, log axes. Data from a run enters the page only as text
// (textContent, fillText), never as markup.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const $ = (id) => document.getElementById(id);
  const canvas = $("canvas"), context = canvas.getContext("2d"), tip = $("tip");
  const MARGIN = { left: 58, right: 20, top: 10, bottom: 40 };
  const NAMES = { step: "steps", tokens: "tokens", seconds: "seconds" };
  const hidden = new Set();
  let view = null; // [x0, x1, y0, y1] in axis units (log10 on a log axis); null for the full range
  let drag = null; // [x, y] in pixels of the drag's start and current position
  let near = null; // the point under the pointer

  // --- data -------------------------------------------------------------------------------------------------------

  const metrics = [...new Set(data.runs.flatMap((run) => run.series.flatMap((s) => Object.keys(s.y))))];
  for (const name of metrics) $("y").add(new Option(name, name));
  $("y").value = metrics.includes("val_loss") ? "val_loss" : metrics[0];

  const smoothed = (values, half) => {
    if (!half) return values;
    const sums = [0];
    const counts = [0];
    values.forEach((v, i) => { sums.push(sums[i] + (v ?? 0)); counts.push(counts[i] + (v === null ? 0 : 1)); });
    return values.map((v, i) => {
      const from = Math.max(0, i - half), to = Math.min(values.length, i + half + 1);
      const count = counts[to] - counts[from];
      return v === null || !count ? null : (sums[to] - sums[from]) / count;
    });
  };

  const xs = (run, series) => {
    const kind = $("x").value;
    return kind === "tokens" ? series.step.map((s) => s * run.tokens_per_step) : series[kind];
  };

  const scale = (value, log) => (log ? (value > 0 ? Math.log10(value) : NaN) : value);

  // One curve per run: points in axis units, NaN for a missing value.
  const curves = () => data.runs.flatMap((run, index) => {
    const series = run.series.find((s) => $("y").value in s.y);
    if (!series || hidden.has(run.group)) return [];
    const logx = $("logx").checked, logy = $("logy").checked;
    const y = smoothed(series.y[$("y").value], +$("smooth").value);
    const points = xs(run, series).map((x, i) => [scale(x, logx), y[i] === null ? NaN : scale(y[i], logy)]);
    return [{ run, index, points }];
  });

  const bounds = (drawn) => {
    const box = [Infinity, -Infinity, Infinity, -Infinity];
    for (const { points } of drawn) for (const [x, y] of points) {
      if (!Number.isFinite(x) || !Number.isFinite(y)) continue;
      box[0] = Math.min(box[0], x); box[1] = Math.max(box[1], x);
      box[2] = Math.min(box[2], y); box[3] = Math.max(box[3], y);
    }
    if (!Number.isFinite(box[0])) return [0, 1, 0, 1];
    for (const i of [0, 2]) if (box[i] === box[i + 1]) { box[i] -= 0.5; box[i + 1] += 0.5; }
    const pad = (box[3] - box[2]) * 0.04;
    return [box[0], box[1], box[2] - pad, box[3] + pad];
  };

  // --- axes -------------------------------------------------------------------------------------------------------

  const ticks = (low, high, count, log) => {
    if (log && high - low >= 1) {
      const every = Math.max(1, Math.ceil((high - low) / count));
      const places = [];
      for (let e = Math.ceil(low); e <= high; e += every) places.push(e);
      return places;
    }
    const [from, to] = log ? [10 ** low, 10 ** high] : [low, high];
    const rough = (to - from) / count, power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough) || rough;
    const places = [];
    for (let k = Math.ceil(from / step); k * step <= to * (1 + 1e-12); k++) places.push(log ? Math.log10(k * step) : k * step);
    return places;
  };

  const label = (value, log) => {
    const number = log ? 10 ** value : value, size = Math.abs(number);
    if (size >= 1e9) return `${+(number / 1e9).toPrecision(4)}G`;
    if (size >= 1e6) return `${+(number / 1e6).toPrecision(4)}M`;
    if (size >= 1e4) return `${+(number / 1e3).toPrecision(4)}k`;
    return size && size < 1e-3 ? number.toExponential(0) : `${+number.toPrecision(4)}`;
  };

  let box = null, width = 0, height = 0;
  const px = (x) => MARGIN.left + ((x - box[0]) / (box[1] - box[0])) * (width - MARGIN.left - MARGIN.right);
  const py = (y) => height - MARGIN.bottom - ((y - box[2]) / (box[3] - box[2])) * (height - MARGIN.top - MARGIN.bottom);
  const unpx = (p) => box[0] + ((p - MARGIN.left) / (width - MARGIN.left - MARGIN.right)) * (box[1] - box[0]);
  const unpy = (p) => box[2] + ((height - MARGIN.bottom - p) / (height - MARGIN.top - MARGIN.bottom)) * (box[3] - box[2]);

  const axes = () => {
    const logx = $("logx").checked, logy = $("logy").checked;
    context.font = "12px system-ui, sans-serif";
    context.strokeStyle = "#e4e4e4"; context.fillStyle = "#444"; context.lineWidth = 1;
    context.setLineDash([]);
    context.textAlign = "center"; context.textBaseline = "top";
    for (const x of ticks(box[0], box[1], Math.max(2, Math.floor(width / 110)), logx)) {
      line(px(x), MARGIN.top, px(x), height - MARGIN.bottom);
      context.fillText(label(x, logx), px(x), height - MARGIN.bottom + 5);
    }
    context.textAlign = "right"; context.textBaseline = "middle";
    for (const y of ticks(box[2], box[3], Math.max(2, Math.floor(height / 60)), logy)) {
      line(MARGIN.left, py(y), width - MARGIN.right, py(y));
      context.fillText(label(y, logy), MARGIN.left - 6, py(y));
    }
    context.textAlign = "center"; context.textBaseline = "bottom";
    context.fillText(NAMES[$("x").value], (width + MARGIN.left) / 2, height - 4);
  };

  const line = (x0, y0, x1, y1) => {
    context.beginPath(); context.moveTo(x0, y0); context.lineTo(x1, y1); context.stroke();
  };

  // --- drawing ----------------------------------------------------------------------------------------------------

  const draw = () => {
    const ratio = window.devicePixelRatio || 1;
    width = canvas.clientWidth; height = canvas.clientHeight;
    canvas.width = Math.round(width * ratio); canvas.height = Math.round(height * ratio);
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    const drawn = curves();
    box = view || bounds(drawn);
    axes();
    context.save();
    context.beginPath();
    context.rect(MARGIN.left, MARGIN.top, width - MARGIN.left - MARGIN.right, height - MARGIN.top - MARGIN.bottom);
    context.clip();
    for (const curve of drawn) stroke(curve);
    if (near) mark(near);
    context.restore();
    if (drag) selection();
    return drawn;
  };

  const stroke = ({ run, points }) => {
    context.strokeStyle = run.color; context.fillStyle = run.color;
    context.lineWidth = near && near.run === run ? 3 : 1.6;
    context.setLineDash(run.dash);
    context.beginPath();
    let pen = false;
    for (const [x, y] of points) {
      if (!Number.isFinite(x) || !Number.isFinite(y)) { pen = false; continue; }
      pen ? context.lineTo(px(x), py(y)) : context.moveTo(px(x), py(y));
      pen = true;
    }
    context.stroke();
    context.setLineDash([]);
    const shown = points.filter(([x, y]) => Number.isFinite(x) && Number.isFinite(y) && x >= box[0] && x <= box[1]);
    if (shown.length <= 60) for (const [x, y] of shown) dot(px(x), py(y), 2.5);
  };

  const dot = (x, y, radius) => { context.beginPath(); context.arc(x, y, radius, 0, 2 * Math.PI); context.fill(); };

  const mark = ({ run, x, y }) => { context.fillStyle = run.color; dot(px(x), py(y), 5); };

  const selection = () => {
    const [x0, y0, x1, y1] = drag;
    context.fillStyle = "rgba(0, 114, 178, .12)"; context.strokeStyle = "#0072B2"; context.lineWidth = 1;
    context.fillRect(x0, y0, x1 - x0, y1 - y0); context.strokeRect(x0, y0, x1 - x0, y1 - y0);
  };

  // --- pointing ---------------------------------------------------------------------------------------------------

  const nearest = (mx, my) => {
    let best = null, least = 40 ** 2;
    for (const { run, points } of curves()) for (const [x, y] of points) {
      const distance = (px(x) - mx) ** 2 + (py(y) - my) ** 2;
      if (distance < least) { least = distance; best = { run, x, y }; }
    }
    return best;
  };

  const point = (event) => {
    const place = canvas.getBoundingClientRect();
    return [event.clientX - place.left, event.clientY - place.top];
  };

  const hover = (mx, my) => {
    near = nearest(mx, my);
    tip.hidden = !near;
    draw();
    if (!near) return;
    const x = label(near.x, $("logx").checked), y = $("logy").checked ? 10 ** near.y : near.y;
    tip.textContent = `${near.run.name}: ${$("y").value} ${+y.toPrecision(5)} at ${x} ${NAMES[$("x").value]}`;
    const left = Math.min(px(near.x) + 12, width - tip.offsetWidth - 4);
    tip.style.left = `${Math.max(0, left)}px`;
    tip.style.top = `${Math.max(0, py(near.y) - tip.offsetHeight - 10)}px`;
  };

  const release = () => {
    if (!drag) return;
    const [x0, y0, x1, y1] = drag;
    drag = null;
    if (Math.abs(x1 - x0) > 8) {
      const [low, high] = [unpx(Math.min(x0, x1)), unpx(Math.max(x0, x1))];
      const flat = Math.abs(y1 - y0) <= 8; // zoom along x only
      view = [low, high, flat ? box[2] : unpy(Math.max(y0, y1)), flat ? box[3] : unpy(Math.min(y0, y1))];
    }
    draw();
  };

  canvas.addEventListener("pointerdown", (event) => { const [x, y] = point(event); drag = [x, y, x, y]; tip.hidden = true; });
  canvas.addEventListener("pointermove", (event) => {
    const [x, y] = point(event);
    if (!drag) return hover(x, y);
    drag[2] = x; drag[3] = y;
    draw();
  });
  window.addEventListener("pointerup", (event) => {
    const clicked = drag && Math.abs(drag[2] - drag[0]) <= 8;
    release();
    if (clicked) hover(...point(event));
  });
  canvas.addEventListener("pointercancel", () => { drag = null; draw(); });
  canvas.addEventListener("pointerleave", () => { near = null; tip.hidden = true; if (!drag) draw(); });
  canvas.addEventListener("dblclick", () => { view = null; draw(); });

  // --- controls ---------------------------------------------------------------------------------------------------

  for (const id of ["x", "y", "logx", "logy"]) $(id).addEventListener("change", () => { view = null; near = null; tip.hidden = true; draw(); });
  $("smooth").addEventListener("input", draw);
  $("reset").addEventListener("click", () => { view = null; draw(); });
  $("controls").addEventListener("submit", (event) => event.preventDefault());
  window.addEventListener("resize", draw);

  const sample = (run) => {
    const make = (name) => document.createElementNS("http://www.w3.org/2000/svg", name);
    const svg = make("svg"), stripe = make("line");
    svg.setAttribute("width", "34"); svg.setAttribute("height", "10");
    for (const [name, value] of [["x1", 1], ["x2", 33], ["y1", 5], ["y2", 5], ["stroke", run.color], ["stroke-width", 2.5],
      ["stroke-dasharray", run.dash.join(" ")]]) stripe.setAttribute(name, value);
    svg.append(stripe);
    return svg;
  };

  for (const group of new Set(data.runs.map((run) => run.group))) {
    const members = data.runs.filter((run) => run.group === group);
    const entry = document.createElement("label"), check = document.createElement("input");
    check.type = "checkbox"; check.checked = true;
    check.addEventListener("change", () => { check.checked ? hidden.delete(group) : hidden.add(group); view = null; draw(); });
    const states = [...new Set(members.map((run) => run.state))].filter((state) => state !== "finished");
    const text = document.createElement("span");
    text.textContent = members.length > 1 ? `${group} (${members.length} runs)` : group;
    entry.append(check, sample(members[0]), text);
    if (states.length) {
      const state = document.createElement("span");
      state.className = "state"; state.textContent = states.join(", ");
      entry.append(state);
    }
    $("legend").append(entry);
  }

  draw();
  document.documentElement.dataset.ready = String(data.runs.length);
})();

"use strict";
// Curves of runs on a canvas: means with bands or single seeds, zoom, pointer and keyboard, toggle, log axes. Data from a
// run enters the page only as text (textContent, fillText), never as markup.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const $ = (id) => document.getElementById(id);
  const canvas = $("canvas"), context = canvas.getContext("2d"), tip = $("tip");
  const MARGIN = { left: 58, right: 20, top: 10, bottom: 40 };
  const NAMES = { step: "steps", tokens: "tokens", seconds: "seconds" };
  const POLYGONS = {
    o: Array.from({ length: 12 }, (_, i) => [Math.cos((i * Math.PI) / 6), Math.sin((i * Math.PI) / 6)]),
    s: [[-0.9, -0.9], [0.9, -0.9], [0.9, 0.9], [-0.9, 0.9]], D: [[0, -1.3], [1.3, 0], [0, 1.3], [-1.3, 0]],
    "^": [[0, -1.2], [1.2, 1], [-1.2, 1]], v: [[0, 1.2], [1.2, -1], [-1.2, -1]],
    P: [[-0.4, -1.2], [0.4, -1.2], [0.4, -0.4], [1.2, -0.4], [1.2, 0.4], [0.4, 0.4], [0.4, 1.2], [-0.4, 1.2], [-0.4, 0.4],
      [-1.2, 0.4], [-1.2, -0.4], [-0.4, -0.4]],
    "*": Array.from({ length: 10 }, (_, i) => [Math.sin((i * Math.PI) / 5), -Math.cos((i * Math.PI) / 5)].map((v) => v * (i % 2 ? 0.6 : 1.5))),
  };
  const theme = (name) => getComputedStyle(document.documentElement).getPropertyValue(name);
  const hidden = new Set();
  let view = null; // [x0, x1, y0, y1] in axis units (log10 on a log axis); null for the full range
  let drag = null; // [x, y] in pixels of the drag's start and current position
  let near = null; // the point under the pointer

  // --- data -------------------------------------------------------------------------------------------------------

  const metrics = [...new Set(data.runs.flatMap((run) => run.series.flatMap((s) => Object.keys(s.y))))];
  for (const name of metrics) $("y").add(new Option(name, name));
  $("y").value = metrics.includes("val_loss") ? "val_loss" : metrics[0];
  const sizes = data.runs.filter((run) => run.series.length).map(({ series: [{ step, tokens }] }) => tokens.at(-1) / step.at(-1));
  if (new Set(sizes).size > 1) $("x").value = "tokens"; // steps of different sizes

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

  const xs = (series) => series[$("x").value];

  const scale = (value, log) => (log ? (value > 0 ? Math.log10(value) : NaN) : value);

  // Curves hold points in axis units, NaN for a missing value: [x, y], or [x, mean, low, high] with a band.
  const seriesOf = (run) => run.series.find((series) => $("y").value in series.y);

  const inAxisUnits = (xs, ...columns) => {
    const logx = $("logx").checked, logy = $("logy").checked;
    const smooth = columns.map((values) => smoothed(values, +$("smooth").value));
    return xs.map((x, i) => [scale(x, logx), ...smooth.map((y) => (y[i] === null ? NaN : scale(y[i], logy)))]);
  };

  const alone = (run) => {
    const series = seriesOf(run);
    return series ? [{ name: run.name, run, points: inAxisUnits(xs(series), series.y[$("y").value]) }] : [];
  };

  // The mean over runs with the range as a band, at the steps that all have.
  const mean = (runs) => {
    const tables = runs.map((run) => {
      const series = seriesOf(run), x = xs(series), y = series.y[$("y").value];
      return new Map(series.step.map((step, i) => [step, [x[i], y[i]]]).filter(([, [, value]]) => value !== null));
    });
    const rows = [...tables[0].keys()].filter((step) => tables.every((table) => table.has(step)))
      .map((step) => tables.map((table) => table.get(step)));
    const average = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
    const column = (reduce, k) => rows.map((row) => reduce(row.map((pair) => pair[k])));
    const y = [average, (values) => Math.min(...values), (values) => Math.max(...values)].map((reduce) => column(reduce, 1));
    const name = `${runs[0].group}, mean of ${runs.length} seeds`;
    return { name, run: runs[0], points: inAxisUnits(column(average, 0), ...y) };
  };

  const curves = () => {
    const shown = data.runs.filter((run) => !hidden.has(run.group));
    if ($("seeds").checked) return shown.flatMap(alone);
    return [...new Set(shown.map((run) => run.group))].flatMap((group) => {
      const members = shown.filter((run) => run.group === group);
      const whole = members.filter((run) => run.state === "finished" && seriesOf(run));
      if (whole.length < 2) return members.flatMap(alone);
      return [mean(whole), ...members.filter((run) => run.state !== "finished").flatMap(alone).map((c) => ({ ...c, thin: true }))];
    });
  };

  const bounds = (drawn) => {
    const box = [Infinity, -Infinity, Infinity, -Infinity];
    const wanted = drawn.some((curve) => !curve.thin) ? drawn.filter((curve) => !curve.thin) : drawn;
    for (const { points } of wanted) for (const [x, y, low = y, high = y] of points) {
      if (!Number.isFinite(x) || !Number.isFinite(y)) continue;
      box[0] = Math.min(box[0], x); box[1] = Math.max(box[1], x);
      box[2] = Math.min(box[2], Number.isFinite(low) ? low : y); box[3] = Math.max(box[3], high);
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
    context.strokeStyle = theme("--line"); context.fillStyle = theme("--ink"); context.lineWidth = 1;
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

  const stroke = (curve) => {
    const { run, points, thin } = curve;
    const finite = points.filter(([x, y]) => Number.isFinite(x) && Number.isFinite(y));
    context.strokeStyle = run.color; context.fillStyle = run.color;
    if (finite.length && finite[0].length > 2) band(finite);
    context.lineWidth = near && near.name === curve.name ? 3 : thin ? 1 : 1.8;
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
    const shown = finite.filter(([x]) => x >= box[0] && x <= box[1]);
    const every = Math.ceil(shown.length / 12);
    if (!thin) shown.forEach(([x, y], i) => { if (i % every === 0 || i === shown.length - 1) dot(run, px(x), py(y), 3.5); });
    if (run.state === "diverged" && finite.length) cross(...finite[finite.length - 1]);
  };

  const band = (points) => {
    context.globalAlpha = 0.2;
    context.beginPath();
    for (const [x, y, , high] of points) context.lineTo(px(x), py(Number.isFinite(high) ? high : y));
    for (const [x, y, low] of [...points].reverse()) context.lineTo(px(x), py(Number.isFinite(low) ? low : y));
    context.fill();
    context.globalAlpha = 1;
  };

  const dot = (run, x, y, radius) => {
    context.beginPath();
    for (const [dx, dy] of POLYGONS[run.marker]) context.lineTo(x + radius * dx, y + radius * dy);
    context.fill();
  };

  // Where a diverged run ends, at the border if that is outside.
  const cross = (x, y) => {
    const cx = px(x), cy = Math.max(MARGIN.top + 6, py(y));
    context.lineWidth = 2.5;
    line(cx - 5, cy - 5, cx + 5, cy + 5); line(cx - 5, cy + 5, cx + 5, cy - 5);
  };

  const mark = ({ run, x, y }) => { context.fillStyle = run.color; dot(run, px(x), py(y), 6); };

  const selection = () => {
    const [x0, y0, x1, y1] = drag;
    context.fillStyle = "rgba(0, 114, 178, .12)"; context.strokeStyle = "#0072B2"; context.lineWidth = 1;
    context.fillRect(x0, y0, x1 - x0, y1 - y0); context.strokeRect(x0, y0, x1 - x0, y1 - y0);
  };

  // --- pointing ---------------------------------------------------------------------------------------------------

  const nearest = (mx, my) => {
    let best = null, least = 40 ** 2;
    for (const { name, run, points } of curves()) for (const [x, y] of points) {
      const distance = (px(x) - mx) ** 2 + (py(y) - my) ** 2;
      if (distance < least) { least = distance; best = { name, run, x, y }; }
    }
    return best;
  };

  const point = (event) => {
    const place = canvas.getBoundingClientRect();
    return [event.clientX - place.left, event.clientY - place.top];
  };

  const hover = (mx, my) => show(nearest(mx, my));

  const show = (point) => {
    near = point;
    draw();
    if (!near) { tip.textContent = ""; return; }
    const x = label(near.x, $("logx").checked), y = $("logy").checked ? 10 ** near.y : near.y;
    tip.textContent = `${near.name}: ${$("y").value} ${+y.toPrecision(5)} at ${x} ${NAMES[$("x").value]}`;
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

  canvas.addEventListener("pointerdown", (event) => { const [x, y] = point(event); drag = [x, y, x, y]; tip.textContent = ""; });
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
  canvas.addEventListener("pointerleave", () => { near = null; tip.textContent = ""; if (!drag) draw(); });
  canvas.addEventListener("dblclick", () => { view = null; draw(); });

  // --- keyboard ---------------------------------------------------------------------------------------------------

  const onScreen = ([x, y]) => Number.isFinite(x) && Number.isFinite(y) && x >= box[0] && x <= box[1];

  // The nearest point of the next curve, or the next point of the same one.
  const move = (along, across) => {
    const drawn = curves().map((curve) => ({ ...curve, points: curve.points.filter(onScreen) })).filter((c) => c.points.length);
    if (!drawn.length) return;
    const at = near ? drawn.findIndex((curve) => curve.name === near.name) : -1;
    const curve = drawn[(Math.max(at, 0) + (at < 0 ? 0 : across) + drawn.length) % drawn.length];
    const distance = ([x]) => Math.abs(x - near.x);
    const start = near ? curve.points.reduce((best, p, i) => (distance(p) < distance(curve.points[best]) ? i : best), 0) : 0;
    const [x, y] = curve.points[Math.min(curve.points.length - 1, Math.max(0, start + (at < 0 ? 0 : along)))];
    show({ name: curve.name, run: curve.run, x, y });
  };

  const zoom = (factor) => {
    const [x, y] = near ? [near.x, near.y] : [(box[0] + box[1]) / 2, (box[2] + box[3]) / 2];
    view = [x + (box[0] - x) * factor, x + (box[1] - x) * factor, y + (box[2] - y) * factor, y + (box[3] - y) * factor];
    show(near);
  };

  const KEYS = {
    ArrowLeft: () => move(-1, 0), ArrowRight: () => move(1, 0), ArrowUp: () => move(0, -1), ArrowDown: () => move(0, 1),
    Home: () => move(-Infinity, 0), End: () => move(Infinity, 0), "+": () => zoom(0.5), "=": () => zoom(0.5), "-": () => zoom(2),
    0: () => { view = null; show(near); }, Escape: () => show(null),
  };
  canvas.addEventListener("keydown", (event) => {
    if (!(event.key in KEYS) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    KEYS[event.key]();
  });

  // --- controls ---------------------------------------------------------------------------------------------------

  for (const id of ["x", "y", "logx", "logy", "seeds"]) $(id).addEventListener("change", () => { view = null; near = null; tip.textContent = ""; draw(); });
  $("smooth").addEventListener("input", draw);
  $("reset").addEventListener("click", () => { view = null; draw(); });
  $("controls").addEventListener("submit", (event) => event.preventDefault());
  window.addEventListener("resize", draw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);

  const sample = (run) => {
    const make = (name) => document.createElementNS("http://www.w3.org/2000/svg", name);
    const svg = make("svg"), stripe = make("line");
    svg.setAttribute("width", "34"); svg.setAttribute("height", "10");
    for (const [name, value] of [["x1", 1], ["x2", 33], ["y1", 5], ["y2", 5], ["stroke", run.color], ["stroke-width", 2.5],
      ["stroke-dasharray", run.dash.join(" ")]]) stripe.setAttribute(name, value);
    const shape = make("polygon");
    shape.setAttribute("points", POLYGONS[run.marker].map(([x, y]) => `${17 + 3.5 * x},${5 + 3.5 * y}`).join(" "));
    shape.setAttribute("fill", run.color);
    svg.append(stripe, shape);
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

  document.documentElement.classList.add("js");
  $("interactive").hidden = false;
  $("single").hidden = new Set(data.runs.map((run) => run.group)).size === data.runs.length;
  draw();
  document.documentElement.dataset.ready = String(data.runs.length);
})();

// Two boxes to drag: what each variant of IoU subtracts, in numbers.
import { build, html, number, slider, svg, t } from "./base.js";

const [WIDTH, HEIGHT, LEAST] = [60, 36, 2]; // the least side that a finger can still take
// Those of the figure, five times as large: left, top, width, height.
const BOXES = [["truth", 30, 3, 20, 15], ["prediction", 10, 13, 10, 20]];

const ratio = (a, b) => (b ? a / b : 0);
const clamp = (x, low, high) => Math.min(Math.max(x, low), high);
const sizes = ([x1, y1, x2, y2]) => [x2 - x1, y2 - y1];
const middle = ([x1, y1, x2, y2]) => [(x1 + x2) / 2, (y1 + y2) / 2];

function area(box) {
  const [w, h] = sizes(box);
  return w > 0 && h > 0 ? w * h : 0;
}

// All that the variants are made of; a box is left, top, right, bottom.
export function compare(a, b) {
  const both = a.map((x, i) => (i < 2 ? Math.max : Math.min)(x, b[i])); // empty if they are apart
  const hull = a.map((x, i) => (i < 2 ? Math.min : Math.max)(x, b[i]));
  const shared = area(both);
  const union = area(a) + area(b) - shared;
  const iou = ratio(shared, union);
  const square = ([x, y]) => x * x + y * y;
  const [p, q] = [middle(a), middle(b)];
  const rho = square([p[0] - q[0], p[1] - q[1]]);
  const c = square(sizes(hull));
  const [m, n] = [a, b].map((box) => Math.atan2(...sizes(box)));
  const v = (4 / Math.PI ** 2) * (n - m) ** 2;
  const alpha = ratio(v, 1 - iou + v);
  const giou = iou - ratio(area(hull) - union, area(hull));
  const diou = iou - ratio(rho, c);
  return { both, hull, shared, union, rho, c, v, alpha, iou, giou, diou, ciou: diou - alpha * v };
}

export default function (host) {
  const parts = [
    [t("truth", "真值框"), t("Truth", "真值框")],
    [t("prediction", "预测框"), t("Prediction", "预测框")],
  ];
  const sides = [["x", WIDTH], ["y", HEIGHT], [t("width", "宽"), WIDTH], [t("height", "高"), HEIGHT]];
  const sliders = BOXES.map(([, ...start], b) =>
    sides.map(([side, most], i) => slider(`${parts[b][1]} ${side}`, i < 2 ? 0 : LEAST, most, start[i])),
  );
  const edges = (b) => {
    const [x, y, w, h] = sliders[b].map(({ value }) => value);
    return [x, y, x + w, y + h];
  };

  // Drawn once, moved ever after: what a finger holds must not go away.
  const rect = (name, more = {}) => svg("rect", { class: name, ...more });
  const path = (name) => svg("path", { class: name });
  const label = (name, text) => svg("text", { class: name }, text);
  const hull = rect("hull");
  const grounds = BOXES.map(() => rect("ground"));
  const boxes = BOXES.map(([name], b) => rect(name, { "data-box": b }));
  const shared = rect("shared");
  const angles = BOXES.map(([name]) => path(name));
  const diagonal = path("diagonal");
  const centres = path("centres");
  const dots = BOXES.map(() => svg("circle", { r: 0.5 }));
  const names = BOXES.map(([name], b) => label(name, parts[b][0]));
  const rho = label("rho", "ρ");
  const handles = BOXES.map(([name], b) =>
    ["00", "10", "01", "11"].map((corner) =>
      svg("circle", { r: 0.7, class: name, "data-box": b, "data-corner": corner }),
    ),
  );
  const all = [hull, grounds, boxes, shared, diagonal, angles, centres, dots, names, rho, handles];
  const drawing = svg(
    "svg",
    { role: "img", class: "pair", viewBox: `0 0 ${WIDTH} ${HEIGHT}` },
    ...all.flat(2),
  );
  drawing.ariaLabel = t(
    "The two boxes, the hull around them, the line between their centres",
    "两个框、包住它们的外接框、两个中心的连线",
  );

  const set = (shape, attributes) => {
    for (const [key, value] of Object.entries(attributes)) shape.setAttribute(key, value);
  };
  const place = (shape, box) => {
    const [width, height] = sizes(box).map((side) => Math.max(side, 0));
    set(shape, { x: box[0], y: box[1], width, height });
  };

  function draw(pair, found) {
    place(hull, found.hull);
    place(shared, found.both);
    const ends = pair.map(middle);
    const [[x, y], [u, v]] = ends;
    const [x1, y1, x2, y2] = found.hull;
    const down = (x - u) * (y - v) >= 0; // along the diagonal that the centres lie by
    set(diagonal, { d: `M${x1} ${down ? y1 : y2}L${x2} ${down ? y2 : y1}` });
    set(centres, { d: `M${x} ${y}L${u} ${v}` });
    set(rho, { x: (x + u) / 2 + 0.6, y: (y + v) / 2 + (down ? -0.6 : 2.2) });
    pair.forEach((box, b) => {
      place(grounds[b], box);
      place(boxes[b], box);
      const [w, h] = sizes(box);
      const r = Math.min(4, w / 2, h / 2);
      const far = Math.hypot(w, h);
      const arc = `M${box[0]} ${box[1] + r}A${r} ${r} 0 0 0 ${box[0] + (r * w) / far} ${box[1] + (r * h) / far}`;
      set(angles[b], { d: `M${box[0]} ${box[1]}L${box[2]} ${box[3]}${arc}` });
      set(dots[b], { cx: ends[b][0], cy: ends[b][1] });
      // Below, unless there is no room.
      set(names[b], { x: box[0] + w / 2, y: box[3] < HEIGHT - 2 ? box[3] + 2 : box[1] - 1 });
      for (const handle of handles[b]) {
        const [i, j] = handle.dataset.corner;
        set(handle, { cx: box[2 * i], cy: box[1 + 2 * j] });
      }
    });
  }

  function update() {
    for (const [x, y, w, h] of sliders) {
      x.max = WIDTH - w.value;
      y.max = HEIGHT - h.value;
      w.max = WIDTH - x.value;
      h.max = HEIGHT - y.value;
    }
    const pair = [edges(0), edges(1)];
    const found = compare(...pair);
    const { both, union, rho, c, v, alpha, iou, giou, diou, ciou } = found;
    draw(pair, found);
    const around = area(found.hull);
    const show = (value) => number(value.toFixed(3).replace(/^-(0\.0+)$/, "$1"));
    const line = (name, terms, value) =>
      html("span", { className: name.toLowerCase() }, html("b", {}, name), ` = ${terms} = `, html("b", {}, show(value)));
    const apart = both[0] > both[2] || both[1] > both[3];
    let verdict = t("They overlap: IoU too has a gradient.", "两框相交：IoU 也有梯度。");
    if (apart) {
      verdict = t("Apart: IoU stays 0, near or far, and has no gradient.", "不相交：不论远近，IoU 都是 0，没有梯度。");
    } else if (iou === 1) verdict = t("The boxes agree.", "两框重合。");
    else if (!found.shared) verdict = t("They touch: IoU is still 0.", "两框刚好相接：IoU 仍是 0。");
    else if (around === union) {
      verdict = t("They fill the hull: GIoU equals IoU.", "两框填满外接框：GIoU 等于 IoU。");
    }
    return [
      line("IoU", `${found.shared} / ${union}`, iou),
      line("GIoU", `${show(iou)} − (${around} − ${union}) / ${around}`, giou),
      line("DIoU", `${show(iou)} − ${rho} / ${c}`, diou),
      line("CIoU", `${show(diou)} − ${show(alpha)} · ${show(v)}`, ciou),
      verdict,
    ];
  }

  const title = t("Try it: drag the boxes and their corners", "试一试：拖动框和它的四角");
  const refresh = build(host, title, sliders.flat(), [drawing], update);

  let grip; // what is held, where it was taken, the box as it was
  const point = ({ clientX, clientY }) => {
    const { width, left, top } = drawing.getBoundingClientRect();
    return [clientX - left, clientY - top].map((at) => (at * WIDTH) / width);
  };
  drawing.addEventListener("pointerdown", (event) => {
    const { box, corner } = event.target.dataset;
    if (!box || event.button || !event.isPrimary) return;
    drawing.setPointerCapture(event.pointerId);
    grip = { id: event.pointerId, box, corner, at: point(event), from: edges(box) };
  });
  drawing.addEventListener("lostpointercapture", () => (grip = undefined));
  drawing.addEventListener("pointermove", (event) => {
    if (grip?.id !== event.pointerId) return;
    const [dx, dy] = point(event).map((at, i) => Math.round(at - grip.at[i]));
    const to = [...grip.from];
    [[dx, WIDTH], [dy, HEIGHT]].forEach(([by, most], i) => {
      const [low, high] = [to[i], to[i + 2]];
      if (!grip.corner) {
        to[i] = clamp(low + by, 0, most - (high - low));
        to[i + 2] = to[i] + high - low;
      } else if (grip.corner[i] === "0") to[i] = clamp(low + by, 0, high - LEAST);
      else to[i + 2] = clamp(high + by, low + LEAST, most);
    });
    [...to.slice(0, 2), ...sizes(to)].forEach((value, i) => {
      const { input } = sliders[grip.box][i];
      input.max = sides[i][1]; // until update says how far
      input.value = value;
    });
    refresh();
  });
  // A finger on a box moves it; beside the boxes it scrolls the page.
  const hold = (event) => event.target.dataset.box && event.preventDefault();
  drawing.addEventListener("touchstart", hold, { passive: false });
}

"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const layers = data.layers;
  const tip = document.getElementById("tip");
  const table = document.getElementById("table");
  const body = table.tBodies[0];
  const rows = [...body.rows];

  // --- sorting

  const value = (row, column) => {
    const cell = row.cells[column];
    const number = cell.dataset.v ?? cell.textContent.trim();
    return number !== "" && !isNaN(number) ? Number(number) : cell.dataset.v === undefined ? number.toLowerCase() : -Infinity;
  };
  const compare = (a, b) => (typeof a === typeof b ? (a < b ? -1 : a > b ? 1 : 0) : typeof a === "number" ? 1 : -1);
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const numeric = head.classList.contains("n") && column > 0;
      const before = head.getAttribute("aria-sort");
      const order = before ? (before === "ascending" ? "descending" : "ascending") : numeric ? "descending" : "ascending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", order);
      const sign = order === "ascending" ? 1 : -1;
      const sorted = rows.slice().sort((a, b) => sign * compare(value(a, column), value(b, column)));
      body.append(...sorted);
    });
  });

  // --- filtering

  const form = document.querySelector(".filter");
  const text = document.getElementById("filter");
  const type = document.getElementById("type");
  const searched = layers.map((one) => [one.name, one.op, ...one.fused, ...one.nodes].join("\n").toLowerCase());
  const filter = () => {
    const words = text.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      const i = Number(row.dataset.layer);
      const fits = words.every((word) => searched[i].includes(word)) && (!type.value || type.value === row.dataset.type);
      row.hidden = !fits;
      shown += fits;
    }
    document.getElementById("found").textContent = shown === rows.length ? "" : `${shown} of ${rows.length}`;
  };
  form.hidden = false;
  form.addEventListener("submit", (event) => event.preventDefault());
  text.addEventListener("input", filter);
  type.addEventListener("change", filter);

  // --- a layer under the pointer: tip, row, box, bars

  const line = (i, extra) => {
    const one = layers[i];
    const parts = [[one.op, ...one.fused].join(" + "), one.shape.join("×"), one.compute + (one.reason ? `: ${one.reason}` : "")];
    if (extra) parts.unshift(extra);
    const name = document.createElement("b");
    name.textContent = `${i} ${one.name}`;
    tip.replaceChildren(name, parts.filter(Boolean).join(" · "));
  };
  const show = (event, i, extra) => {
    line(i, extra);
    place(event);
  };
  const place = (event) => {
    tip.hidden = false;
    const width = tip.offsetWidth, height = tip.offsetHeight;
    const x = Math.min(event.clientX + 14, innerWidth - width - 6);
    const y = event.clientY + 18 + height > innerHeight ? event.clientY - height - 12 : event.clientY + 18;
    tip.style.left = `${Math.max(x, 4)}px`;
    tip.style.top = `${Math.max(y, 4)}px`;
  };
  const hide = () => { tip.hidden = true; };
  const edges = [...document.querySelectorAll(".edge")];
  let chosen = -1;
  const choose = (i) => {
    if (i === chosen) return;
    chosen = i;
    for (const one of document.querySelectorAll(".chosen")) one.classList.remove("chosen");
    if (i < 0) return;
    for (const one of document.querySelectorAll(`tr[data-layer="${i}"], li[data-layer="${i}"], .canvas a[data-layer="${i}"]`)) one.classList.add("chosen");
    for (const one of edges) one.classList.toggle("chosen", Number(one.dataset.from) === i || Number(one.dataset.to) === i);
    for (const plot of document.querySelectorAll(".plot[data-over=layer]")) {
      const at = plot.querySelector(".at");
      at.setAttribute("x", Number(plot.dataset.left) + i * Number(plot.dataset.step));
      at.setAttribute("visibility", "visible");
    }
  };
  for (const plot of document.querySelectorAll(".plot")) {
    const values = data.plots[plot.dataset.plot];
    const under = (event) => {
      const box = plot.getBoundingClientRect();
      const x = ((event.clientX - box.left) / box.width) * plot.viewBox.baseVal.width;
      const i = Math.floor((x - Number(plot.dataset.left)) / Number(plot.dataset.step));
      return i >= 0 && i < values.length ? i : -1;
    };
    plot.addEventListener("pointermove", (event) => {
      const i = under(event);
      if (i < 0) return hide();
      if (plot.dataset.over === "layer") {
        choose(i);
        show(event, i, values[i]);
      } else {
        const layer = data.steps[i] ?? -1;
        if (layer >= 0) {
          choose(layer);
          show(event, layer, `kernel ${i}: ${values[i]}`);
        } else {
          tip.textContent = `kernel ${i}: ${values[i]}`;
          place(event);
        }
      }
    });
    plot.addEventListener("pointerleave", hide);
    plot.addEventListener("click", (event) => { const i = under(event); if (i >= 0 && plot.dataset.over === "layer") go(i); });
  }
  for (const one of document.querySelectorAll(".canvas a, .cards li[data-layer]")) {
    const i = Number(one.dataset.layer);
    one.addEventListener("pointermove", (event) => { choose(i); show(event, i); });
    one.addEventListener("pointerleave", hide);
  }
  body.addEventListener("pointerover", (event) => {
    const row = event.target.closest("tr");
    if (row) choose(Number(row.dataset.layer));
  });
  const go = (i) => {
    const row = document.getElementById(`layer-${i}`);
    if (row.hidden) { text.value = ""; type.value = ""; filter(); }
    choose(i);
    row.scrollIntoView({ block: "center" });
  };
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[data-layer]");
    if (!link) return;
    event.preventDefault();
    if (!moved) go(Number(link.dataset.layer));
  });

  // --- the graph: zoom and drag

  let moved = false;
  const canvas = document.querySelector(".canvas");
  if (canvas) {
    const picture = document.getElementById("picture");
    const width = picture.viewBox.baseVal.width, height = picture.viewBox.baseVal.height;
    let scale = 1;
    const zoom = (to, x, y) => {
      const before = scale;
      scale = Math.min(Math.max(to, 0.05), 4);
      picture.setAttribute("width", width * scale);
      picture.setAttribute("height", height * scale);
      canvas.scrollLeft = (canvas.scrollLeft + x) * (scale / before) - x;
      canvas.scrollTop = (canvas.scrollTop + y) * (scale / before) - y;
    };
    document.querySelector(".tools").hidden = false;
    for (const button of document.querySelectorAll("[data-zoom]")) {
      button.addEventListener("click", () => {
        const factor = Number(button.dataset.zoom);
        const whole = Math.min(canvas.clientWidth / width, (innerHeight * 0.8) / height, 1);
        zoom(factor ? scale * factor : whole, canvas.clientWidth / 2, canvas.clientHeight / 2);
      });
    }
    canvas.addEventListener("wheel", (event) => {
      if (!event.ctrlKey) return;
      event.preventDefault();
      const box = canvas.getBoundingClientRect();
      zoom(scale * Math.exp(-event.deltaY / 300), event.clientX - box.left, event.clientY - box.top);
    }, { passive: false });
    let held = null;
    canvas.addEventListener("pointerdown", (event) => {
      moved = false;
      if (event.pointerType === "mouse" && event.button === 0) held = [event.clientX, event.clientY, canvas.scrollLeft, canvas.scrollTop];
    });
    addEventListener("pointermove", (event) => {
      if (!held) return;
      const x = event.clientX - held[0], y = event.clientY - held[1];
      if (Math.abs(x) + Math.abs(y) > 4) moved = true;
      canvas.classList.toggle("grabbed", moved);
      canvas.scrollLeft = held[2] - x;
      canvas.scrollTop = held[3] - y;
    });
    addEventListener("pointerup", () => { held = null; canvas.classList.remove("grabbed"); });
    canvas.addEventListener("dragstart", (event) => event.preventDefault());
  }
})();

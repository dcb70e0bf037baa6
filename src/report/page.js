"use strict";
(() => {
  const facts = JSON.parse(document.getElementById("facts").textContent);
  const el = (tag, attributes = {}, ...children) => {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name === "onclick") node.addEventListener("click", value);
      else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value);
    }
    node.append(...children.filter((child) => child !== null && child !== undefined));
    return node;
  };
  const number = (value, digits = 2) => (value === null || value === undefined ? "–" : value.toFixed(digits));
  const time = (s) => (s < 9.95 ? `${s.toFixed(1)} s` : s < 60 ? `${Math.round(s)} s`
    : s < 3600 ? `${Math.floor(s / 60)} min ${String(Math.floor(s % 60)).padStart(2, "0")} s`
      : `${Math.floor(s / 3600)} h ${String(Math.floor((s % 3600) / 60)).padStart(2, "0")} min`);
  const bytes = (n) => {
    const units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let unit = 0;
    while (n >= 1023.95 && unit < 4) { n /= 1024; unit += 1; }
    return `${unit === 0 || n >= 99.95 ? n.toFixed(0) : n.toFixed(1)} ${units[unit]}`;
  };
  /* Numbers first and as numbers; what is none sorts as text, and nothing last. */
  const key = (text) => {
    const trimmed = text.trim();
    if (trimmed === "" || trimmed === "–" || trimmed === "missing" || trimmed === "failed") return [2, trimmed];
    const value = parseFloat(trimmed.replace("−", "-"));
    return Number.isNaN(value) ? [1, trimmed] : [0, value];
  };
  const compare = (a, b) => (a[0] !== b[0] ? a[0] - b[0] : a[0] === 1 ? a[1].localeCompare(b[1]) : a[1] - b[1] || 0);

  /* Heads of columns that sort: a button each. */
  const sortable = (table, sort) => {
    table.querySelectorAll("thead th").forEach((head, column) => {
      const button = el("button", { type: "button", class: "sort", title: "sort by this column" });
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") === "ascending";
        table.querySelectorAll("thead th").forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        sort(column, down ? -1 : 1);
      });
    });
  };
  const filter = (label, act) => {
    const input = el("input", { type: "search", placeholder: label, "aria-label": label });
    input.addEventListener("input", () => act(input.value.toLowerCase().split(/\s+/).filter(Boolean)));
    return input;
  };

  /* Tables of the page: rows stay where they are made. */
  document.querySelectorAll("main table:not(.points)").forEach((table) => {
    const body = table.tBodies[0];
    const rows = [...body.rows];
    sortable(table, (column, sign) => {
      table.classList.add("sorted");
      const value = (row) => {
        const cell = row.cells[column];
        return key(cell === undefined ? "" : cell.dataset.value ?? cell.textContent);
      };
      const sorted = [...rows].map((row) => [value(row), row]);
      sorted.sort((a, b) => (a[0][0] === 2 || b[0][0] === 2 ? compare(a[0], b[0]) : sign * compare(a[0], b[0])));
      body.append(...sorted.map((pair) => pair[1]));
    });
    if (rows.length > 7) {
      const bar = el("div", { class: "bar" }, filter("filter rows", (words) => {
        for (const row of rows) {
          const text = row.textContent.toLowerCase();
          row.hidden = !words.every((word) => text.includes(word));
        }
      }));
      table.closest(".scroll").before(bar);
    }
  });

  /* The panel: what a cell or a point stands on. */
  const panel = el("dialog", { class: "panel", "aria-label": "evidence" });
  document.body.append(panel);
  let came = null;
  const show = (title, ...content) => {
    const close = el("button", { type: "button", class: "close", onclick: () => panel.close() }, "Close");
    const back = came === null ? null : el("button", { type: "button", class: "close", onclick: came }, "Back");
    panel.replaceChildren(el("header", {}, el("h3", {}, title), el("span", {}, back, close)), ...content);
    panel.scrollTop = 0;
    if (!panel.open) panel.showModal();
  };
  panel.addEventListener("close", () => {
    came = null;
    history.replaceState(null, "", location.pathname + location.search);
  });
  panel.addEventListener("click", (event) => { if (event.target === panel) panel.close(); });
  const pairs = (entries) => el("dl", {}, ...entries.filter((e) => e[1] !== null && e[1] !== undefined && e[1] !== "")
    .flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));
  const code = (text) => el("code", {}, text);
  const grid = (heads, rows) => el("div", { class: "scroll" }, el("table", { class: "points" },
    el("thead", {}, el("tr", {}, ...heads.map((head) => el("th", { scope: "col" }, head)))),
    el("tbody", {}, ...rows.map((cells) => el("tr", {}, ...cells.map((cell) => el("td", {}, cell)))))));

  const configuration = (point) => facts.axes.map((axis, at) => `${axis.name} ${point.v[at]}`).join(" · ");
  const behind = (point) => {
    const found = new Set();
    const next = point.t.filter((at) => at !== null);
    while (next.length > 0) {
      const at = next.pop();
      if (!found.has(at)) { found.add(at); next.push(...facts.stages[at].parents); }
    }
    return [...found].sort((a, b) => a - b);
  };
  const stage = (at) => {
    const s = facts.stages[at];
    const folder = `objects/${s.key.slice(0, 2)}/${s.key}`;
    const settings = { ...facts.common[s.kind], ...s.own };
    const names = Object.keys(settings).sort();
    const files = (s.files ?? []).map(([name, size]) => el("li", {}, code(`${folder}/${name}`), ` ${bytes(size)}`));
    return el("details", { class: "stage" },
      el("summary", {}, el("b", {}, s.label), " ", el("span", { class: "soft" },
        s.state === "done" ? `${time(s.seconds)}${s.memory ? `, ${bytes(s.memory)}` : ""}` : s.state)),
      pairs([
        ["Key", code(s.key)], ["State", s.state], ["Why", s.failure],
        ["Work", s.seconds === undefined ? "" : `${time(s.seconds)} on ${s.threads} threads`],
        ["Queue", s.queue ? `${time(s.queue[0])} before it ran, as job ${s.queue[1]}` : ""],
        ["Memory", s.memory ? `${bytes(s.memory)} at most` : ""], ["Size", s.bytes ? bytes(s.bytes) : ""],
        ["When", s.when ? `${s.when[0]} to ${s.when[1]}` : ""], ["Where", s.where],
        ["By", s.by ? `${s.by}${s.commit ? `, commit ${s.commit}` : ""}` : ""], ["Data", s.data ? code(s.data) : ""],
        ["Reads", s.parents.map((parent) => facts.stages[parent].label).join(", ")],
      ]),
      files.length > 0 ? el("p", { class: "soft" }, "Files, in the store:") : null,
      files.length > 0 ? el("ul", { class: "files" }, ...files) : null,
      names.length > 0 ? el("details", {}, el("summary", {}, `${names.length} settings`),
        grid(["Setting", "Value"], names.map((name) => [code(name), code(settings[name])]))) : null,
      s.log ? el("details", {}, el("summary", {}, "Log"), el("pre", {}, s.log)) : null);
  };
  const link = (at) => el("button", { type: "button", class: "link", onclick: () => openPoint(at) }, facts.points[at].id);
  const openPoint = (at) => {
    const point = facts.points[at];
    const stages = behind(point);
    history.replaceState(null, "", `#point=${point.id}`);
    const keys = point.k ? [["Training", code(point.k[0])], ["Evaluation", code(point.k[1])]] : [];
    show(`Point ${point.id}`,
      el("p", {}, configuration(point)),
      pairs([["Status", point.s], ["Error", point.e],
        ...facts.metrics.map((name, i) => [name, point.m[i] === null ? "" : number(point.m[i])]),
        ["Best step", point.b === undefined ? "" : String(point.b)], ...keys]),
      el("h4", {}, stages.length > 0 ? "Stages, in the order in which data flows" : "No stage is known: only frames were at hand"),
      ...stages.map(stage),
      el("p", { class: "soft" }, code(`sweep logs ${point.id}`), " shows what became of it, ",
        code(`sweep rerun ${point.id} --check`), " computes it again and compares."));
  };
  /* TABLE.ROW.METRIC; a table's name may have dots. */
  const parts = (id) => {
    const all = id.split(".");
    const metric = all.pop();
    const row = Number(all.pop()) - 1;
    return [all.join("."), row, metric];
  };
  const openCell = (id) => {
    const cell = document.getElementById(id);
    const [table, row, metric] = parts(id);
    const points = facts.tables[table]?.[row];
    if (!cell || !points) return;
    history.replaceState(null, "", `#cell=${id}`);
    const column = facts.columns.findIndex((name) => metric === name);
    const again = () => { came = null; openCell(id); };
    const heads = ["Point", ...facts.axes.map((axis) => axis.name), "Status", ...(column >= 0 ? [facts.metrics[column]] : facts.metrics)];
    const values = (point) => (column >= 0 ? [number(point.m[column], 3)] : point.m.map((value) => number(value, 3)));
    show(cell.innerText.trim().replace(/\s+/g, " "),
      el("p", {}, `Cell `, code(id), ` stands on ${points.length} point${points.length === 1 ? "" : "s"}:`),
      grid(heads, points.map((at) => {
        const point = facts.points[at];
        const open = link(at);
        open.addEventListener("click", () => { came = again; openPoint(at); });
        return [open, ...point.v, point.s, ...values(point)];
      })),
      el("p", { class: "soft" }, "Each point leads to its stages and checkpoints."));
  };
  document.querySelectorAll("main td[id]").forEach((cell) => {
    const [table, row] = parts(cell.id);
    if (!facts.tables[table]?.[row]) return;
    cell.classList.add("evidence");
    cell.tabIndex = 0;
    cell.setAttribute("role", "button");
    cell.addEventListener("click", () => openCell(cell.id));
    cell.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") { event.preventDefault(); openCell(cell.id); }
    });
  });

  /* The points: rows are made as they are looked at. */
  const PAGE = 50;
  const table = document.querySelector("main table.points");
  if (table) {
    const heads = ["Point", ...facts.axes.map((axis) => axis.name), "Status", ...facts.metrics, "Best step", "Work"];
    const first = facts.axes.length + 2;
    table.tHead.append(el("tr", {}, ...heads.map((head, at) =>
      el("th", { scope: "col", class: at >= first ? "num" : "axis" }, head))));
    const rows = facts.points.map((point, at) => {
      const own = point.t[0] === null ? undefined : facts.stages[point.t[0]].seconds;
      const cells = [point.id, ...point.v, point.s, ...point.m.map((value) => (value === null ? "" : number(value))),
        point.b === undefined ? "" : String(point.b), own === undefined ? "" : time(own)];
      return { at, cells, own, text: cells.join(" ").toLowerCase() };
    });
    let chosen = rows;
    let shown = PAGE;
    const count = el("span", { class: "soft", role: "status" });
    const more = el("button", { type: "button", onclick: () => { shown += 10 * PAGE; draw(); } }, "Show more");
    const draw = () => {
      table.tBodies[0].replaceChildren(...chosen.slice(0, shown).map((row) => el("tr", {},
        ...row.cells.map((text, at) => el("td", { class: at >= first ? "num" : at === first - 1 && text !== "done" ? "absent" : "axis" },
          at === 0 ? link(row.at) : text)))));
      count.textContent = chosen.length === rows.length ? `${rows.length} points` : `${chosen.length} of ${rows.length} points`;
      more.hidden = chosen.length <= shown;
    };
    sortable(table, (column, sign) => {
      const value = (row) => (column === heads.length - 1 ? (row.own === undefined ? [2, ""] : [0, row.own]) : key(row.cells[column]));
      const sorted = rows.map((row) => [value(row), row]);
      sorted.sort((a, b) => (a[0][0] === 2 || b[0][0] === 2 ? compare(a[0], b[0]) : sign * compare(a[0], b[0])) || a[1].at - b[1].at);
      const kept = new Set(chosen);
      rows.splice(0, rows.length, ...sorted.map((pair) => pair[1]));
      chosen = rows.filter((row) => kept.has(row));
      draw();
    });
    const bar = el("div", { class: "bar" }, filter("filter points", (words) => {
      chosen = rows.filter((row) => words.every((word) => row.text.includes(word)));
      shown = PAGE;
      draw();
    }), count);
    table.closest(".scroll").before(bar);
    table.closest(".scroll").after(more);
    draw();
  }

  const follow = () => {
    const [kind, name] = decodeURIComponent(location.hash.slice(1)).split("=");
    if (kind === "cell") openCell(name);
    if (kind === "point") {
      const at = facts.points.findIndex((point) => point.id === name);
      if (at >= 0) openPoint(at);
    }
  };
  window.addEventListener("hashchange", follow);
  follow();
})();

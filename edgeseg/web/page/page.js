// The live page. What it must never do: show an old picture as if it were live. Whatever it does not
// know (the server's clock, the limit of age, a new picture) covers the picture until it knows.

const LEAST_PATIENCE_MS = 1500;
const PATIENCE_WITHOUT_LIMIT_MS = 2000;
const SILENCE_MS = 3000;
const CHART_MS = 60000;
const GOOD_ONES_TO_UNCOVER = 3;
const JUMPED = "the clock of this machine jumped";

const $ = (id) => document.getElementById(id);
const page = {
  socket: null,
  openedOnce: false,
  lost: "connecting",
  retryMs: 250,
  heardMs: 0,
  view: "overlay",
  status: null,
  trouble: "",
  picture: null,
  owed: 0,
  coveredFor: "connecting",
  card: false,
  points: [],
  engine: [],
};

// The server's clock, in ms. A pong was stamped between the sending of its ping and its arrival; to
// take the earlier end makes ages too large by a round trip at most, and never too small.
const clock = {
  answers: [],
  wallMs: Date.now() - performance.now(),
  reset() {
    this.answers = [];
    this.wallMs = Date.now() - performance.now();
  },
  note(sentMs, serverMs) {
    this.answers.push({ offsetMs: serverMs - sentMs, tripMs: performance.now() - sentMs });
    this.answers = this.answers.slice(-8);
    // What drifts slowly is no jump.
    if (!this.jumped) this.wallMs = Date.now() - performance.now();
  },
  // After a sleep the two clocks of this machine have drifted apart, and nothing is known any more.
  get jumped() {
    return Math.abs(Date.now() - performance.now() - this.wallMs) > 1000;
  },
  get known() {
    return this.answers.length > 0;
  },
  get tripMs() {
    return Math.min(...this.answers.map((one) => one.tripMs));
  },
  nowMs() {
    const best = this.answers.reduce((a, b) => (b.tripMs <= a.tripMs ? b : a));
    return performance.now() + best.offsetMs;
  },
};

// The rule of age

function limitMs() {
  return page.status ? page.status.max_age_ms : 0;
}

function patienceMs() {
  return limitMs() > 0 ? Math.max(LEAST_PATIENCE_MS, limitMs()) : PATIENCE_WITHOUT_LIMIT_MS;
}

function seconds(ms) {
  return `${(ms / 1000).toFixed(1)} s`;
}

// Why the picture on the page may not be shown; "" if it may.
function fault() {
  if (page.lost) return page.lost;
  if (clock.jumped) return JUMPED;
  if (!clock.known || !page.status) return page.trouble || "connecting";
  if (!page.picture) return "waiting for a picture";
  const now = clock.nowMs();
  const since = now - page.picture.shown_ms;
  const age = page.picture.mask_captured_ms === null ? null : now - page.picture.mask_captured_ms;
  if (since > patienceMs()) return `no new picture for ${seconds(since)}`;
  if (age !== null && limitMs() > 0 && age > limitMs()) {
    return since > limitMs()
      ? `no new picture for ${seconds(since)}`
      : `the mask is ${Math.round(age)} ms old here, the limit is ${Math.round(limitMs())} ms`;
  }
  return "";
}

function judge() {
  const why = fault();
  if (why) {
    page.coveredFor = why;
    // A picture that was too old is not uncovered by a single good one, which would flicker.
    page.owed = page.picture ? GOOD_ONES_TO_UNCOVER : 1;
  }
  const covered = why !== "" || page.owed > 0;
  $("cover").hidden = !covered;
  // Figures of before are not passed off as those of now either.
  document.body.classList.toggle("lost", page.lost !== "");
  if (covered) {
    write("cover-why", page.coveredFor);
    showAge();
  }
  showState(covered);
}

function showState(covered) {
  const shown = page.picture;
  const state = covered || !shown ? "none" : shown.state;
  const words = {
    current: "Current",
    predicted: "Predicted",
    none: covered || !shown ? "No current result" : `No current result: ${shown.reason}`,
  };
  $("state").dataset.state = state;
  $("state").title = covered ? page.coveredFor : shown.detail;
  write("state", words[state]);
  document.title = state === "none" ? "No current result - edgeseg" : "edgeseg live";
}

// The socket

function connect() {
  const scheme = location.protocol === "https:" ? "wss:" : "ws:";
  const socket = new WebSocket(`${scheme}//${location.host}/ws`);
  socket.binaryType = "arraybuffer";
  page.socket = socket;
  page.heardMs = performance.now();
  let open = false;
  socket.onopen = () => {
    if (socket !== page.socket) return;
    open = true;
    page.openedOnce = true;
    page.heardMs = performance.now();
    clock.reset();
    for (const delayMs of [0, 150, 400]) setTimeout(ping, delayMs);
    sendView();
  };
  socket.onmessage = (event) => {
    if (socket !== page.socket) return;
    page.heardMs = performance.now();
    if (typeof event.data === "string") take(JSON.parse(event.data));
    else draw(socket, event.data);
  };
  socket.onclose = (event) => {
    if (socket === page.socket) drop(event.reason, open);
  };
}

// The connection is gone: cover at once, ask why it could not be made, try again.
function drop(reason, wasOpen) {
  const socket = page.socket;
  page.socket = null;
  if (socket) socket.close();
  clock.reset();
  page.picture = null;
  page.status = null;
  page.lost = reason || (page.openedOnce ? "connection lost" : "no connection");
  judge();
  if (!wasOpen) explain();
  setTimeout(connect, page.retryMs);
  page.retryMs = Math.min(3000, page.retryMs * 1.6);
}

async function explain() {
  try {
    const answer = await fetch("/healthz");
    if (answer.status === 401 && page.lost) page.lost = "the token has changed: open the page with the new one";
  } catch {
    return; // nobody answers: what is said already
  }
}

function send(message) {
  if (page.socket && page.socket.readyState === WebSocket.OPEN) {
    page.socket.send(JSON.stringify(message));
  }
}

function ping() {
  send({ type: "ping", sent_ms: performance.now() });
}

function sendView() {
  send({ type: "view", view: document.hidden ? null : page.view });
}

function take(message) {
  if (message.type === "hello") {
    page.lost = "";
    page.retryMs = 250;
    page.points = message.history.map((one) => ({ atMs: one.at_ms, ageMs: one.age_ms }));
    page.engine = message.history.map((one) => ({ atMs: one.at_ms, ageMs: one.engine_ms }));
  } else if (message.type === "pong") {
    clock.note(message.sent_ms, message.server_ms);
  } else if (message.type === "status") {
    page.status = message;
    page.trouble = "";
    showStatus(message);
    if (clock.known) page.engine.push({ atMs: clock.nowMs(), ageMs: message.engine_ms });
    if (!page.card) fetchCard();
  } else if (message.type === "error") {
    page.trouble = message.error;
    notice(message.error, true);
  }
  judge();
}

async function draw(socket, data) {
  const length = new DataView(data).getUint32(0);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, length)));
  const jpeg = new Blob([new Uint8Array(data, 4 + length)], { type: "image/jpeg" });
  try {
    const bitmap = await createImageBitmap(jpeg);
    if (socket === page.socket) {
      const canvas = $("picture");
      if (canvas.width !== bitmap.width || canvas.height !== bitmap.height) {
        canvas.width = bitmap.width;
        canvas.height = bitmap.height;
      }
      canvas.getContext("2d", { alpha: false }).drawImage(bitmap, 0, 0);
      page.picture = header;
      canvas.dataset.number = header.number;
      canvas.dataset.view = header.view;
      // A picture with a sign cannot be mistaken for a result, and is shown at once.
      if (!fault()) page.owed = header.state === "none" ? 0 : Math.max(0, page.owed - 1);
      notePoint(header);
    }
    bitmap.close();
  } catch {
    notice("a picture could not be decoded", true);
  }
  if (socket === page.socket) {
    judge();
    send({ type: "ack", number: header.number });
  }
}

function notePoint(header) {
  if (!clock.known) return;
  const now = clock.nowMs();
  const age = header.mask_captured_ms === null ? null : now - header.mask_captured_ms;
  page.points.push({ atMs: now, ageMs: age });
}

// Figures

function write(id, text) {
  // Only what changes, so that a screen reader does not read the same state again.
  if ($(id).textContent !== text) $(id).textContent = text;
}

function number(value, digits = 0) {
  return value === null || value === undefined ? "–" : value.toFixed(digits);
}

function row(list, name, value) {
  const term = document.createElement("dt");
  const entry = document.createElement("dd");
  term.textContent = name;
  entry.textContent = value;
  list.push(term, entry);
}

function fail(list, text) {
  const entry = document.createElement("dd");
  entry.className = "wrong";
  entry.textContent = text;
  list.push(entry);
}

function showStatus(status) {
  const size = status.frame_size_px ? ` ${status.frame_size_px.join("×")}` : "";
  write("source", `${status.source}${size}${status.connected ? "" : " (not connected)"}`);
  write("engine", number(status.engine_ms, status.engine_ms < 10 ? 1 : 0));
  write("mask-fps", number(status.mask_fps, 1));
  write("captured-fps", number(status.captured_fps, 1));
  write("shown-fps", number(status.shown_fps, 1));
  write("limit", status.max_age_ms > 0 ? `${Math.round(status.max_age_ms)} ms` : "none");
  const { ages } = status;
  write(
    "ages",
    ages.count
      ? `In the session: median ${number(ages.p50_ms)}, 99% ${number(ages.p99_ms)}, ` +
          `largest ${number(ages.max_ms)} ms`
      : "",
  );
  const frames = [];
  row(frames, "Captured", status.captured);
  row(frames, "Shown with their mask", status.shown);
  if (status.predicted) row(frames, "Shown with a moved mask", status.predicted);
  row(frames, "Shown without result", status.unmasked);
  for (const [cause, count] of Object.entries(status.dropped)) row(frames, `Dropped: ${cause}`, count);
  for (const [where, count] of Object.entries(status.faults)) row(frames, `Fault: ${where}`, count);
  if (status.reconnections) row(frames, "Reconnections", status.reconnections);
  row(frames, "Engine at work", `${Math.round(100 * status.engine_busy)} %`);
  if (status.views) row(frames, "Views", status.views);
  if (status.region) {
    const { x_px: x, y_px: y, width_px: width, height_px: height } = status.region;
    row(frames, "Region", `${width}×${height} at ${x}, ${y}`);
  }
  row(frames, "Running for", duration(status.uptime_s));
  $("frames").replaceChildren(...frames);
  const sinks = [];
  for (const sink of status.sinks) {
    row(sinks, sink.name, `${sink.written}${sink.dropped ? `, ${sink.dropped} missed` : ""}`);
    if (sink.error) fail(sinks, sink.error);
  }
  row(sinks, "Viewers", status.viewers);
  $("sinks").replaceChildren(...sinks);
  showControl("opacity", status.opacity);
  showControl("threshold", status.threshold);
  showRecording(status.recording);
}

function duration(value) {
  const whole = Math.floor(value);
  const parts = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  return parts.map((part) => String(part).padStart(2, "0")).join(":");
}

function showAge() {
  const last = page.points[page.points.length - 1];
  const fresh = $("cover").hidden && last && last.ageMs !== null;
  write("age", fresh ? number(last.ageMs) : "–");
}

// Chart

function forget() {
  if (!clock.known) return;
  const since = clock.nowMs() - CHART_MS;
  page.points = page.points.filter((point) => point.atMs > since);
  page.engine = page.engine.filter((point) => point.atMs > since);
}

function drawChart() {
  const canvas = $("chart");
  const scale = window.devicePixelRatio || 1;
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  if (!width || !clock.known) return;
  if (canvas.width !== Math.round(width * scale)) canvas.width = Math.round(width * scale);
  if (canvas.height !== Math.round(height * scale)) canvas.height = Math.round(height * scale);
  const pen = canvas.getContext("2d");
  pen.setTransform(scale, 0, 0, scale, 0, 0);
  pen.clearRect(0, 0, width, height);
  const end = clock.nowMs();
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(name).trim();
  // A single outlier is cut off at the top; the limit stays in the lower half.
  const values = [...page.points, ...page.engine].map((point) => point.ageMs ?? 0);
  const largest = Math.max(10, limitMs(), ...values);
  const top = niceTop(limitMs() > 0 ? Math.min(largest, 2 * limitMs()) : largest);
  const [left, right, above, below] = [36, width - 2, 6, height - 16];
  const x = (atMs) => right - ((end - atMs) / CHART_MS) * (right - left);
  const y = (valueMs) => below - (Math.min(valueMs, top) / top) * (below - above);

  pen.font = "11px system-ui, sans-serif";
  pen.lineWidth = 1;
  pen.textBaseline = "middle";
  for (const share of [0, 0.5, 1]) {
    pen.strokeStyle = colour("--line");
    line(pen, [left, y(share * top)], [right, y(share * top)]);
    pen.fillStyle = colour("--quiet");
    pen.textAlign = "right";
    pen.fillText(String(Math.round(share * top)), left - 5, y(share * top));
  }
  pen.textAlign = "left";
  pen.fillText("60 s ago", left, height - 5);
  pen.textAlign = "right";
  pen.fillText("ms, now", right, height - 5);

  // Where nothing came for a while, and where what came had no mask.
  pen.fillStyle = "#3a4147";
  let before = null;
  for (const point of [...page.points, { atMs: end, ageMs: null, last: true }]) {
    const gap = before && point.atMs - before.atMs > LEAST_PATIENCE_MS;
    if (before && (gap || before.ageMs === null)) {
      pen.fillRect(x(before.atMs), above, Math.max(1, x(point.atMs) - x(before.atMs)), below - above);
    }
    before = point;
  }
  curve(pen, page.engine, x, y, colour("--second"));
  curve(pen, page.points, x, y, colour("--accent"));
  if (limitMs() > 0) {
    pen.strokeStyle = colour("--attention");
    pen.lineCap = "butt";
    pen.setLineDash([5, 4]);
    line(pen, [left, y(limitMs())], [right, y(limitMs())]);
    pen.setLineDash([]);
  }
}

function line(pen, from, to) {
  pen.beginPath();
  pen.moveTo(...from);
  pen.lineTo(...to);
  pen.stroke();
}

function curve(pen, points, x, y, colour) {
  pen.strokeStyle = colour;
  pen.lineWidth = 1.5;
  pen.lineCap = "round";
  pen.beginPath();
  let before = null;
  for (const point of points) {
    if (point.ageMs === null) {
      before = null;
      continue;
    }
    const joined = before && point.atMs - before.atMs <= LEAST_PATIENCE_MS;
    if (!joined) pen.moveTo(x(point.atMs), y(point.ageMs));
    pen.lineTo(x(point.atMs), y(point.ageMs)); // one that stands alone is a dot, with round ends
    before = point;
  }
  pen.stroke();
}

function niceTop(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 1.5, 2, 3, 4, 5, 6, 8, 10, 15].find((step) => step * power >= value * 1.05) * power || value;
}

function describeChart() {
  const ages = page.points.map((point) => point.ageMs).filter((age) => age !== null);
  const text = ages.length
    ? `Age of the mask over the last minute: ${number(Math.min(...ages))} to ` +
      `${number(Math.max(...ages))} ms`
    : "No mask in the last minute";
  $("chart").setAttribute("aria-label", text);
}

// Model

async function fetchCard() {
  page.card = true; // one request at a time
  try {
    const card = await ask("/api/model");
    page.card = Object.keys(card).length > 0;
    if (page.card) showCard(card);
  } catch (error) {
    page.card = false;
    notice(error.message, true);
  }
}

const NAMES = { iou: "IoU", checkpoint_sha256: "Checkpoint SHA-256", built_utc: "Built (UTC)" };

function words(name) {
  if (NAMES[name]) return NAMES[name];
  const text = name.replace(/_(px|ms)$/, " ($1)").replaceAll("_", " ");
  return text.charAt(0).toUpperCase() + text.slice(1);
}

function cell(value) {
  if (typeof value === "number" && !Number.isInteger(value)) return String(Number(value.toFixed(4)));
  if (Array.isArray(value)) return value.map(cell).join(", ");
  if (value !== null && typeof value === "object") {
    return Object.entries(value).map(([name, one]) => `${words(name)} ${cell(one)}`).join(", ");
  }
  if (value === null || value === "") return "–";
  const text = String(value);
  return /^[0-9a-f]{40,}$/.test(text) ? `${text.slice(0, 12)}…` : text;
}

function showCard(card) {
  const rows = [];
  for (const [name, value] of Object.entries(card)) {
    const many = Array.isArray(value) && value.length && typeof value[0] === "object";
    if (name === "accuracy" && many) showAccuracy(value);
    else if (name !== "accuracy") row(rows, words(name), cell(value));
    else row(rows, "Accuracy", Array.isArray(value) ? "not measured" : cell(value));
  }
  $("model").replaceChildren(...rows);
}

function showAccuracy(scores) {
  const names = Object.keys(scores[0]);
  const line = (tag, texts) => {
    const made = document.createElement("tr");
    for (const text of texts) {
      const entry = document.createElement(tag);
      entry.textContent = text;
      made.append(entry);
    }
    return made;
  };
  $("accuracy").tHead.replaceChildren(line("th", names.map(words)));
  $("accuracy").tBodies[0].replaceChildren(
    ...scores.map((score) => line("td", names.map((name) => cell(score[name])))),
  );
  $("accuracy").hidden = false;
}

// Controls

async function ask(address, method = "GET", body = undefined) {
  const headers = body ? { "Content-Type": "application/json" } : {};
  let answer;
  try {
    answer = await fetch(address, { method, headers, body: body && JSON.stringify(body) });
  } catch {
    throw new Error("the page does not answer");
  }
  const value = await answer.json().catch(() => ({ error: `status ${answer.status}` }));
  if (!answer.ok) throw new Error(value.error);
  return value;
}

function notice(text, wrong = false) {
  $("notice").classList.toggle("wrong", wrong);
  write("notice", text);
}

// A slider is its user's until a second after it was moved; then it shows the session's value.
const sliders = {};
for (const name of ["opacity", "threshold"]) {
  const slider = { movedMs: -Infinity, waiting: false, value: null };
  sliders[name] = slider;
  $(name).addEventListener("input", () => {
    slider.movedMs = performance.now();
    slider.value = Number($(name).value);
    write(`${name}-value`, slider.value.toFixed(2));
    if (slider.waiting) return;
    slider.waiting = true;
    setTimeout(async () => {
      slider.waiting = false;
      try {
        await ask("/api/controls", "PATCH", { [name]: slider.value });
        notice("");
      } catch (error) {
        slider.movedMs = -Infinity;
        notice(error.message, true);
      }
    }, 120);
  });
}

function showControl(name, value) {
  const control = $(name);
  control.disabled = value === null;
  control.title = value === null ? "A model of several classes has no threshold" : "";
  if (value === null) write(`${name}-value`, "none");
  if (value === null || performance.now() - sliders[name].movedMs < 1000) return;
  control.value = value;
  write(`${name}-value`, value.toFixed(2));
}

for (const choice of document.querySelectorAll("input[name=view]")) {
  choice.addEventListener("change", () => {
    page.view = choice.value;
    sendView();
  });
  // Browsers keep the choice over a reload.
  if (choice.checked) page.view = choice.value;
}

$("controls").addEventListener("submit", (event) => event.preventDefault());

$("snapshot").addEventListener("click", async () => {
  $("snapshot").disabled = true;
  try {
    const answer = await fetch(`/api/snapshot?view=${page.view}`);
    if (!answer.ok) throw new Error((await answer.json()).error);
    const frame = answer.headers.get("X-Edgeseg-Frame");
    const link = document.createElement("a");
    link.href = URL.createObjectURL(await answer.blob());
    link.download = `edgeseg-${frame}-${page.view}.png`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    notice(`Snapshot of frame ${frame}: ${link.download}`);
  } catch (error) {
    notice(`No snapshot: ${error.message}`, true);
  }
  $("snapshot").disabled = false;
});

function showRecording(file) {
  const button = $("record");
  button.setAttribute("aria-pressed", String(file !== null));
  button.title = file ?? "";
  button.disabled = page.recordingAsked === true;
  write("record-text", file === null ? "Start recording" : "Stop recording");
}

$("record").addEventListener("click", async () => {
  const stop = $("record").getAttribute("aria-pressed") === "true";
  page.recordingAsked = true;
  $("record").disabled = true;
  try {
    const { file } = await ask("/api/recording", "POST", { action: stop ? "stop" : "start" });
    page.recordingAsked = false;
    showRecording(stop ? null : file);
    const name = file === null ? "" : file.split(/[\\/]/).pop();
    notice(stop ? (name ? `Recorded: ${name}` : "Nothing was being recorded") : `Recording: ${name}`);
  } catch (error) {
    page.recordingAsked = false;
    notice(error.message, true);
  }
  $("record").disabled = false;
});

// Clocks

document.addEventListener("visibilitychange", () => {
  sendView();
  judge();
});

setInterval(() => {
  if (page.socket && clock.jumped) drop(JUMPED, true);
  else if (page.socket && performance.now() - page.heardMs > SILENCE_MS) drop("connection lost", true);
  judge();
}, 100);
setInterval(() => {
  showAge();
  forget();
  if (!document.hidden) drawChart();
}, 250);
setInterval(ping, 2000);
setInterval(describeChart, 5000);

connect();

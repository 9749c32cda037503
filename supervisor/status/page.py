"""The page of ``GET /``: one self-contained document, kept current by ``/status`` and ``/events``.

Everything from the server is set as text, never as markup, and the policy forbids whatever the
page does not use: a training script may write what it likes into a failure message.
"""

from __future__ import annotations

import base64
import hashlib

_STYLE = """
:root{color-scheme:light dark;--line:#8884}
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:64rem;padding:0 1rem}
h1{font-size:1.3rem;margin:0}h2{font-size:1rem;margin:1.6rem 0 .3rem}
#phase{padding:.1rem .6rem;border:1px solid;border-radius:1rem;font-size:.9rem}
table{border-collapse:collapse;width:100%}
th,td{text-align:left;padding:.2rem .6rem .2rem 0;border-bottom:1px solid var(--line)}
td{font-variant-numeric:tabular-nums}
th{font-weight:600;font-size:.85rem}
pre{white-space:pre-wrap;overflow-wrap:anywhere;background:#8881;padding:.6rem;margin:.3rem 0}
#timeline td{vertical-align:top}#timeline td:first-child{white-space:nowrap}
#ended{font-weight:600;border-left:.3rem solid;padding-left:.6rem}
progress{width:100%}#ledger td{width:33%}
#away{color:#c33}[hidden]{display:none}
"""

_SCRIPT = """
"use strict";
const $ = id => document.getElementById(id);
const size = n => { if (n == null) return "";
  const u = ["B","KiB","MiB","GiB","TiB"]; let i = 0;
  while (n >= 1024 && i < 4) { n /= 1024; i++; }
  return n.toFixed(i ? 1 : 0) + " " + u[i]; };
const unsafe = new RegExp("[\\\\x00-\\\\x09\\\\x0b-\\\\x1f\\\\x7f-\\\\x9f\\\\xad\\\\u061c"
  + "\\\\u200b-\\\\u200f\\\\u2028-\\\\u202e\\\\u2060-\\\\u206f\\\\ufeff]", "g");
const plain = v => v == null ? "" : String(v).replace(unsafe,
  c => "\\\\u" + c.charCodeAt(0).toString(16).padStart(4, "0"));
const secs = s => { if (s == null) return ""; s = Math.max(0, Math.round(s));
  const h = Math.floor(s / 3600), m = Math.floor(s % 3600 / 60);
  return (h ? h + " h " : "") + (h || m ? m + " min " : "") + s % 60 + " s"; };
const told = c => c.host + (c.process ? " " + c.process : "") + ": " + c.message;
const clock = t => t == null ? "" : new Date(t * 1000).toLocaleTimeString();
function fill(id, rows) {
  const body = $(id); body.replaceChildren();
  for (const row of rows) { const tr = body.insertRow();
    for (const cell of row) tr.insertCell().textContent = plain(cell); }
}
const units = [[1, "s"], [60, "min"], [3600, "h"]];
const pace = r => { const [n, u] = units.find(([n]) => r * n >= .1) || units[2];
  return (r * n).toFixed(r * n < 9.95 ? 1 : 0) + " /" + u; };
const much = n => n.toLocaleString("en");
const rough = s => s < 59.5 ? s.toFixed(s < 9.95 ? 1 : 0) + " s" : secs(60 * Math.round(s / 60))
  .replace(/ 0 s$/, "");
const share = (t, u) => "goodput " + (100 * t.goodput).toFixed(0) + " % of " + rough(t.wall_s)
  + (t.steps == null ? "" : ", " + much(t.steps) + " new " + u + "s") + (t.runs > 1 ? ", of "
  + t.runs + " runs" : "");
function training(s) {
  const p = s.progress, l = s.ledger, seen = l && l.run.goodput != null;
  $("training").hidden = !p && !seen;
  $("bar").hidden = !p || !p.total;
  if (p) { $("bar").max = p.total || 1; $("bar").value = p.step;
    $("step").textContent = plain([p.unit + " " + much(p.step)
      + (p.total == null ? "" : " of " + much(p.total)), p.rate > 0 ? pace(p.rate) : "",
      p.left_s == null ? "" : rough(p.left_s) + " left",
      p.loss == null ? "" : "loss " + (typeof p.loss === "number" ? +p.loss.toPrecision(3) : p.loss)
    ].filter(Boolean).join(", ") + " (" + [p.source, p.where].filter(Boolean).join(", ") + ")"); }
  $("time").textContent = seen ? plain([share(l.run, l.unit),
    l.all.runs > 1 ? share(l.all, l.unit) : ""].filter(Boolean).join(" · ")) : "";
  fill("ledger", seen ? Object.entries(l.run.seconds).filter(e => e[1] >= .05).map(
    e => [e[0].replace("_", " "), rough(e[1]),
      (100 * e[1] / l.run.wall_s).toFixed(0) + " %"]) : []);
}
function entry(e) {
  const rest = Object.entries(e).filter(([k]) => k !== "at" && k !== "event")
    .map(([k, v]) => k + "=" + (typeof v === "object" ? JSON.stringify(v) : v)).join("  ");
  return [clock(e.at), e.event, rest];
}
let over = false;
function show(s) {
  document.title = plain(s.host + " · " + s.phase);
  $("host").textContent = plain(s.host); $("phase").textContent = plain(s.phase);
  $("about").textContent = plain([s.job, "master " + s.master, "up " + secs(s.uptime_s),
    s.attempt > 1 ? "attempt " + s.attempt : "",
    s.budget.left_s == null ? "" : secs(s.budget.left_s) + " left to stop"]
    .filter(Boolean).join(" · "));
  const cause = s.cause;
  $("cause").hidden = !cause;
  if (cause) { $("message").textContent = plain(told(cause));
    $("detail").textContent = plain(cause.detail);
    $("detail").hidden = !cause.detail; }
  const others = Object.entries(s.waiting || {}).map(e => "waiting for " + e.join(": ")).concat(
    ["tolerated", "also"].flatMap(w => (s[w] || []).map(c => w + ": " + told(c))));
  $("others").hidden = !others.length; $("others").textContent = plain(others.join("\\n"));
  training(s);
  $("verdict").textContent = s.verdict ? s.verdict.outcome : "";
  fill("processes", s.processes.map(p => [p.name, p.role, p.pid,
    p.exit || p.state + (p.ready ? ", ready" : ""),
    clock(p.started_at), p.cpu_s == null ? "" : secs(p.cpu_s), size(p.rss_bytes),
    size(p.output_bytes), p.status_text]));
  const kept = s.transfers || []; $("kept").hidden = !kept.length;
  fill("transfers", kept.map(t => [t.name, size(t.sent_bytes), size(t.rate_bytes_s) + "/s",
    t.pending_files ? t.pending_files + " files, " + size(t.pending_bytes) : "",
    t.lag_s ? secs(t.lag_s) : "", t.error || t.newest]));
  const tries = (s.attempts || []).slice().reverse(); $("again").hidden = !(s.attempt > 1);
  fill("attempts", tries.map(a => [a.attempt, clock(a.began_at),
    a.began_at && a.ended_at ? secs(a.ended_at - a.began_at) : "",
    a.cause ? told(a.cause) + (a.kind ? " (" + a.kind + ")" : "") : ""]));
  fill("hosts", s.hosts.map(h => [h.name, h.phase, h.state,
    h.last_seen_s == null ? "" : secs(h.last_seen_s) + " ago"]));
  fill("timeline", s.timeline.slice(-100).reverse().map(entry));
  $("away").hidden = true;
}
async function refresh() {
  if (over) return;
  try {
    const answer = await fetch("status", {cache: "no-store", signal: AbortSignal.timeout(5000)});
    if (!answer.ok) throw new Error("HTTP " + answer.status);
    const s = await answer.json();
    if (!over) show(s);
  } catch (error) { if (over) return;
    $("away").hidden = false; $("away").textContent = "no answer: " + error.message; }
}
function end(s) {
  over = true; feed.close(); clearInterval(timer);
  if (!s.phase) return;
  show(s);
  const outcome = s.verdict ? s.verdict.outcome : s.exit_code === 0 ? "succeeded" : "failed";
  const cause = s.cause ? ", " + told(s.cause) : "";
  $("ended").hidden = false;
  $("ended").textContent = plain("the job has ended: " + outcome + cause
    + (s.exit_code == null ? "" : "; exit code " + s.exit_code + " here"));
  document.title = plain(s.host + " · " + outcome);
}
let soon = 0;
function refreshSoon() { if (!soon) soon = setTimeout(() => { soon = 0; refresh(); }, 300); }
const feed = new EventSource("events");
feed.onmessage = refreshSoon;
feed.addEventListener("end", event => end(JSON.parse(event.data)));
const timer = setInterval(refresh, 3000);
refresh();
"""

HTML = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width,initial-scale=1">
<title>supervisor</title><link rel="icon" href="data:,"><style>{_STYLE}</style></head><body>
<h1><span id="host">supervisor</span> <span id="phase">…</span> <span id="verdict"></span></h1>
<p id="ended" role="status" hidden></p><p id="about"></p><p id="away" role="alert" hidden></p>
<section id="cause" hidden><h2>Cause</h2><p id="message"></p><pre id="detail"></pre></section>
<pre id="others" hidden></pre>
<section id="training" hidden><h2>Training</h2><p><span id="step"></span>
<progress id="bar" hidden></progress></p><p id="time"></p><table><tbody id="ledger"></tbody></table>
</section>
<h2>Processes</h2><table><thead><tr><th>name<th>role<th>pid<th>state<th>started<th>CPU<th>memory
<th>output<th>says</thead><tbody id="processes"></tbody></table>
<section id="kept" hidden><h2>Kept elsewhere</h2><table><thead><tr><th>name<th>sent<th>rate
<th>to be sent<th>behind<th>newest, or what is wrong</thead><tbody id="transfers"></tbody></table>
</section><section id="again" hidden><h2>Attempts</h2><table><thead><tr><th>attempt<th>began
<th>lasted<th>why it ended</thead><tbody id="attempts"></tbody></table></section>
<h2>Hosts</h2><table><thead><tr><th>name<th>phase<th>state<th>last seen</thead>
<tbody id="hosts"></tbody></table>
<h2>Timeline</h2><table><tbody id="timeline"></tbody></table>
<script>{_SCRIPT}</script></body></html>
""".encode()


def _source(text: str) -> str:
    """Name an inline part by its hash, so that the policy can allow it and nothing else."""
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"


POLICY = (
    f"default-src 'none'; style-src {_source(_STYLE)}; script-src {_source(_SCRIPT)}; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)

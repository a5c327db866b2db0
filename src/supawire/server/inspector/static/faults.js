// The buttons that make the server fail, drawn from the server's own table of faults.

import { element } from "/inspector/draw.js";

const find = (selector) => document.querySelector(selector);
let drawn = "";

export function drawFaultButtons(faults, cause) {
  const content = JSON.stringify(faults);
  if (content === drawn) return;
  drawn = content;
  const groups = new Map();
  for (const fault of faults) groups.set(fault.group, [...(groups.get(fault.group) ?? []), fault]);
  find("#fault-buttons").replaceChildren(...[...groups].map(([group, members]) => {
    const forms = members.map((fault) => drawFault(fault, cause));
    return group === "" ? element("div", {}, ...forms) : element("details", {}, element("summary", {}, group), ...forms);
  }));
}

function drawFault(fault, cause) {
  const form = element("form", { className: "fault", autocomplete: "off" },
    element("button", { title: fault.hint }, fault.label), ...fault.fields.map((field) => drawField(field)));
  form.dataset.fault = fault.name;
  if (fault.hint && fault.fields.length) form.append(element("p", { className: "hint" }, fault.hint));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    sayFault("");
    const values = Object.fromEntries(fault.fields.map((field) => [field.name, value(field, form.elements[field.name])]));
    if (!cause(fault.name, values)) sayFault("the server does not answer", true);
  });
  return form;
}

function drawField(field) {
  const name = { name: field.name };
  if (field.kind === "check") return element("label", { className: "check" }, element("input", { ...name, type: "checkbox" }), ` ${field.label}`);
  let control;
  if (field.kind === "choice") {
    control = element("select", name, ...field.choices.map((choice) => element("option", { value: choice }, String(choice))));
    control.value = field.value;
  } else if (field.kind === "connection") {
    control = element("select", name, element("option", { value: "" }, "all"));
    control.dataset.kind = "connection";
  } else {
    control = element("input", { ...name, value: field.value, required: field.required });
    if (field.kind === "number") Object.assign(control, { inputMode: "decimal", size: 4 });
    if (field.kind === "topic") control.setAttribute("list", "topics");
  }
  return element("label", { className: field.kind }, `${field.label} `, control);
}

function value(field, control) {
  if (field.kind === "check") return control.checked;
  if (control.value === "") return null;
  const isNumber = field.kind === "number" || field.kind === "connection" || typeof field.choices[0] === "number";
  return isNumber && !Number.isNaN(Number(control.value)) ? Number(control.value) : control.value;
}

export function sayFault(text, bad = false) {
  const output = find("#causes > output");
  output.textContent = text;
  output.classList.toggle("bad", bad);
}

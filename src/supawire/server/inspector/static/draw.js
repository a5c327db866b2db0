// Small things that draw: elements, times, JSON. Text from outside only ever becomes text.

export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key in made && key !== "list") made[key] = value;
    else made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child !== null && child !== ""));
  return made;
}

const two = (number, width = 2) => String(number).padStart(width, "0");

export function clock(seconds) {
  const at = new Date(seconds * 1000);
  const whole = `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
  return [whole, element("i", {}, `.${two(at.getMilliseconds(), 3)}`)];
}

export function ago(seconds, now = Date.now() / 1000) {
  const passed = Math.max(0, Math.round(now - seconds));
  if (passed < 60) return `${passed} s`;
  if (passed < 3600) return `${Math.floor(passed / 60)} min`;
  return `${Math.floor(passed / 3600)} h ${Math.floor((passed % 3600) / 60)} min`;
}

export function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text; // it was cut, or is no JSON
  }
}

export function count(number, one, many) {
  return `${number} ${number === 1 ? one : many}`;
}

// Replaces the children of a list only where something changed, so that neither focus nor selection is lost.
export function refill(list, items, key, draw) {
  const old = new Map([...list.children].map((child) => [child.dataset.key, child]));
  items.forEach((item, index) => {
    const name = key(item);
    const content = JSON.stringify(item);
    let child = old.get(name);
    if (child === undefined || child.dataset.content !== content) {
      const made = draw(item);
      made.dataset.key = name;
      made.dataset.content = content;
      child?.replaceWith(made);
      child = made;
    }
    old.delete(name);
    if (list.children[index] !== child) list.insertBefore(child, list.children[index] ?? null);
  });
  for (const child of old.values()) child.remove();
}

// The entry of a small project for a bundler: types, JSX, JSON, a style sheet, a re-export and code that is never used.
import { total, type Item } from "./price";
import { List } from "./list";
import * as shapes from "./shapes";
import settings from "./settings.json";
import "./page.css";

const items: Item[] = settings.items.map(([name, price]) => ({ name: String(name), price: Number(price) }));

enum Mode {
  Quiet,
  Loud = Quiet + 2,
}

export async function show(mode: Mode = Mode.Loud): Promise<string> {
  const label = `${settings.title ?? "untitled"}: ${total(items)}`;
  const area = shapes.square(3) ** 2;
  return mode === Mode.Loud ? `${label} ${area} ${List({ items })?.tag}` : label;
}

console.log(await show());

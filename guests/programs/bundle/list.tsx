import type { Item } from "./price";

const h = (tag: string, properties: object | null, ...children: unknown[]) => ({ tag, properties, children });

export function List({ items }: { items: Item[] }) {
  return (
    <ul class="items">
      {items.map((item) => (
        <li title={item.name}>{item.price.toFixed(2)}</li>
      ))}
    </ul>
  );
}

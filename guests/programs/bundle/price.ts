export interface Item {
  readonly name: string;
  price: number;
}

export const total = (items: readonly Item[]): number => items.reduce((sum, { price }) => sum + price, 0);

export function neverUsed(): string {
  return "this text must not be in the bundle";
}

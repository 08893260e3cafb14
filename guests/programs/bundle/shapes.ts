export class Shape {
  #side: number;
  static count = 0;
  constructor(side: number) {
    this.#side = side;
    Shape.count += 1;
  }
  get area(): number {
    return this.#side ** 2;
  }
}

export const square = (side: number): number => new Shape(side).area;
export const circle = (radius: number): number => Math.PI * radius ** 2;

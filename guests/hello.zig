//! Prints one line from Zig, with a formatted value, through the standard library.
const std = @import("std");

pub fn main(init: std.process.Init) !void {
    var buffer: [64]u8 = undefined;
    var out = std.Io.File.stdout().writer(init.io, &buffer);
    try out.interface.print("hello from {s}\n", .{"Zig"});
    try out.interface.flush();
}

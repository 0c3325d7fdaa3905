const std = @import("std");

pub fn main(init: std.process.Init) !void {
    const arguments = try init.minimal.args.toSlice(init.arena.allocator());
    var buffer: [256]u8 = undefined;
    var stdout = std.Io.File.stdout().writer(init.io, &buffer);
    for (arguments[1..]) |name|
        try stdout.interface.print("Hello, {s}!\n", .{name});
    try stdout.interface.flush();
}

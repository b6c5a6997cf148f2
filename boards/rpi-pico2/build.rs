//! Makes constants and the linker's memory map of `board.toml`.

/// What the chip's boot ROM looks for: a block within the first 4 KiB of flash, and one behind all else.
const BLOCKS: &str = "
SECTIONS
{
  .start_block : ALIGN(4)
  {
    __start_block_addr = .;
    KEEP(*(.start_block));
  } > FLASH
}
INSERT AFTER .vector_table;

_stext = ADDR(.start_block) + SIZEOF(.start_block);

SECTIONS
{
  .end_block : ALIGN(4)
  {
    __end_block_addr = .;
    KEEP(*(.end_block));
  } > FLASH
}
INSERT AFTER .uninit;

PROVIDE(start_to_end = __end_block_addr - __start_block_addr);
PROVIDE(end_to_start = __start_block_addr - __end_block_addr);
";

fn main() {
    edgeward_board_build::run(BLOCKS);
}

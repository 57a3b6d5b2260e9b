//! Columns: cells end with a tab, and cells below each other get one width.

/// The narrowest that a column gets.
const MIN_WIDTH: usize = 12;
/// Spaces between a column's widest cell and the next column.
const PADDING: usize = 2;

/// Aligns lines of cells as Go's `tabwriter` does.
pub(super) fn align(text: &str) -> String {
    let lines: Vec<Vec<&str>> = text.split('\n').map(|line| line.split('\t').collect()).collect();
    let mut widths = vec![Vec::new(); lines.len()];
    // A column ends where a line has no cell in it; the last part of a line is no cell.
    let mut column = 0;
    let mut with_cell: Vec<usize> = (0..lines.len()).filter(|at| lines[*at].len() > 1).collect();
    while !with_cell.is_empty() {
        for block in with_cell.chunk_by(|above, below| above + 1 == *below) {
            let cells = block.iter().map(|at| lines[*at][column].chars().count() + PADDING);
            let width = cells.max().unwrap_or(0).max(MIN_WIDTH);
            for at in block {
                widths[*at].push(width);
            }
        }
        column += 1;
        with_cell.retain(|at| lines[*at].len() > column + 1);
    }
    let aligned = lines.iter().zip(&widths).map(|(line, widths)| {
        let mut out = String::new();
        for (index, cell) in line.iter().enumerate() {
            out.push_str(cell);
            if let Some(width) = widths.get(index) {
                out.extend(std::iter::repeat_n(' ', width.saturating_sub(cell.chars().count())));
            }
        }
        out
    });
    aligned.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_below_each_other_get_one_width() {
        assert_eq!(
            align("NAME\tTAG\tX\nregistry.example\t1\ty\n"),
            "NAME              TAG         X\nregistry.example  1           y\n"
        );
    }

    #[test]
    fn a_line_without_cells_ends_a_column() {
        assert_eq!(
            align("a\tb\n\nlonger than twelve\tb\n"),
            "a           b\n\nlonger than twelve  b\n"
        );
    }
}

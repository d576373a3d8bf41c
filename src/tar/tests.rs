//! Archives as programs write them, and as none should.

use std::io::Read;
use std::ops::Range;

use super::entry::checked_path;
use super::extended::MAX_PIECES;
use super::members::MAX_EXTENDED;
use super::*;

/// A header as ustar has it, with these fields besides.
fn header(kind: u8, name: &[u8], size: u64, fields: &[(Range<usize>, &[u8])]) -> Vec<u8> {
    let mut block = [0; BLOCK];
    let size = format!("{size:011o}\0");
    for (field, bytes) in [
        (Header::NAME, name),
        (Header::MODE, b"0000644\0"),
        (Header::UID, b"0000001\0"),
        (Header::GID, b"0000002\0"),
        (Header::SIZE, size.as_bytes()),
        (Header::MODIFIED, b"00000000003\0"),
        (156..157, &[kind]),
        (257..265, b"ustar\x0000"),
    ]
    .iter()
    .chain(fields)
    {
        block[field.clone()][..bytes.len()].copy_from_slice(bytes);
    }
    block[Header::CHECKSUM].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    let has_checksum = fields.iter().find(|(field, _)| *field == Header::CHECKSUM);
    let checksum = format!("{sum:06o}\0 ");
    let checksum = has_checksum.map_or(checksum.as_bytes(), |(_, bytes)| bytes);
    block[Header::CHECKSUM].copy_from_slice(checksum);
    block.to_vec()
}

/// Data in whole blocks.
fn filled(data: &[u8]) -> Vec<u8> {
    let mut blocks = data.to_vec();
    blocks.resize(data.len().next_multiple_of(BLOCK), 0);
    blocks
}

/// A header of this type with its data: extended ones, and long names.
fn with_data(kind: u8, data: &[u8]) -> Vec<u8> {
    let header = header(kind, b"extended", data.len() as u64, &[]);
    [header, filled(data)].concat()
}

fn record(keyword: &str, value: &[u8]) -> Vec<u8> {
    let rest = keyword.len() + value.len() + 3;
    let length = (rest..)
        .find(|length| rest + length.to_string().len() == *length)
        .unwrap();
    [format!("{length} {keyword}=").as_bytes(), value, b"\n"].concat()
}

/// An extended header with these records.
fn pax(records: &[(&str, &[u8])]) -> Vec<u8> {
    let records = records
        .iter()
        .map(|(keyword, value)| record(keyword, value));
    with_data(b'x', &records.collect::<Vec<_>>().concat())
}

fn plain(name: &[u8]) -> Vec<u8> {
    header(b'0', name, 0, &[])
}

/// All entries with their files' bytes, or why not.
fn read(archive: &[u8]) -> Result<Vec<(Entry, Vec<u8>)>, String> {
    let why = |failure| match failure {
        Failure::Refused(why) => why,
        Failure::Read(error) => error.kind().to_string(),
    };
    let mut entries = Members::new(archive);
    let mut found = Vec::new();
    while let Some(entry) = entries.next_entry().map_err(why)? {
        let mut bytes = Vec::new();
        if let Kind::File { size, pieces } = &entry.kind {
            bytes.resize(usize::try_from(*size).unwrap(), 0);
            for piece in pieces {
                let start = usize::try_from(piece.offset).unwrap();
                let mut place = &mut bytes[start..start + piece.size as usize];
                while !place.is_empty() {
                    let n = entries
                        .read(place)
                        .map_err(|error| why(Failure::Read(error)))?;
                    place = &mut place[n..];
                }
            }
        }
        found.push((entry, bytes));
    }
    entries.drain().map_err(|error| why(Failure::Read(error)))?;
    Ok(found)
}

fn one(archive: &[u8]) -> Entry {
    let mut found = read(archive).unwrap();
    assert_eq!(found.len(), 1);
    found.remove(0).0
}

fn refusal(archive: &[u8]) -> String {
    read(archive).map(|found| format!("{found:?}")).unwrap_err()
}

#[test]
fn every_type_is_what_it_says_whatever_size_it_claims() {
    let link: (Range<usize>, &[u8]) = (Header::LINK, b"./a//b");
    let device: [(Range<usize>, &[u8]); 2] =
        [(Header::MAJOR, b"0007777\0"), (Header::MINOR, b"3777777\0")];
    for (kind, name, fields, expected) in [
        (0, "n", &[][..], None),
        (b'0', "n", &[], None),
        (b'7', "n", &[], None),
        (0, "n/", &[], Some(Kind::Directory)),
        (b'5', "n", &[], Some(Kind::Directory)),
        (b'5', "n/", &[], Some(Kind::Directory)),
        (b'6', "n", &[], Some(Kind::Fifo)),
        (
            b'1',
            "n",
            std::slice::from_ref(&link),
            Some(Kind::HardLink(b"a/b".into())),
        ),
        (
            b'2',
            "n",
            std::slice::from_ref(&link),
            Some(Kind::Symlink(b"./a//b".into())),
        ),
        (
            b'3',
            "n",
            &device,
            Some(Kind::CharacterDevice(0xfff, 0xf_ffff)),
        ),
        (b'4', "n", &device, Some(Kind::BlockDevice(0xfff, 0xf_ffff))),
    ] {
        // Only what may have data has any; the entry after it must be found in any case.
        let is_file = expected.is_none();
        let data: &[u8] = if is_file { b"data" } else { b"" };
        let size = if name == "n/" && kind == 0 { 0 } else { 4 };
        let archive = [
            header(kind, name.as_bytes(), size, fields),
            filled(data),
            plain(b"z"),
        ]
        .concat();
        let found = read(&archive).unwrap();
        assert_eq!(found.len(), 2, "{}", char::from(kind));
        let pieces = vec![Piece { offset: 0, size: 4 }];
        let expected = expected.unwrap_or(Kind::File { size: 4, pieces });
        assert_eq!(
            (
                found[0].0.path.as_slice(),
                &found[0].0.kind,
                found[0].1.as_slice()
            ),
            (&b"n"[..], &expected, data)
        );
        assert_eq!(found[1].0.path, b"z");
    }
}

#[test]
fn what_a_header_says_of_a_file_is_kept() {
    let fields: [(Range<usize>, &[u8]); 1] = [(Header::MODE, b"0104755\0")];
    assert_eq!(
        one(&header(b'0', b"./a/../b"[..4].into(), 0, &fields)).attributes,
        Attributes {
            mode: 0o4755,
            uid: 1,
            gid: 2,
            modified: Time {
                seconds: 3,
                nanoseconds: 0
            },
            xattrs: Xattrs::default(),
        }
    );
    let records: [(&str, &[u8]); 9] = [
        ("path", b"from/pax"),
        ("uid", b"4294967294"),
        ("gid", b"2097152"),
        ("mtime", b"-1.5"),
        ("SCHILY.xattr.user.a", b"1\n2=3\n\0\xff"),
        // GNU tar writes an empty xattr so; Go's reader, and umoci's with it, takes it for none.
        ("SCHILY.xattr.user.empty", b""),
        ("SCHILY.xattr.user.=", b"="),
        ("comment", b"nobody reads that"),
        ("uname", b"nobody"),
    ];
    let entry = one(&[pax(&records), plain(b"other")].concat());
    assert_eq!(entry.path, b"from/pax");
    let mut xattrs = Xattrs::default();
    for (name, value) in [
        // The keyword ends at the first =, as pax(1) has it.
        (&b"user."[..], &b"=="[..]),
        (b"user.a", b"1\n2=3\n\0\xff"),
        (b"user.empty", b""),
    ] {
        xattrs.insert(name.to_vec(), value.to_vec());
    }
    assert_eq!(
        entry.attributes,
        Attributes {
            mode: 0o644,
            uid: 4_294_967_294,
            gid: 2_097_152,
            modified: Time {
                seconds: -2,
                nanoseconds: 500_000_000
            },
            xattrs,
        }
    );
}

#[test]
fn a_long_name_is_put_together_from_where_each_format_has_it() {
    let name = b"n".repeat(150);
    let path = [&b"d/".repeat(75)[..], b"n"].concat();
    let prefix: [(Range<usize>, &[u8]); 1] = [(Header::PREFIX, b"some/prefix")];
    let gnu: [(Range<usize>, &[u8]); 2] = [(Header::PREFIX, b"1234567"), (257..265, b"ustar  \0")];
    let full = b"f".repeat(100);
    for (archive, expected, why) in [
        (
            header(b'0', b"a", 0, &prefix),
            &b"some/prefix/a"[..],
            "ustar",
        ),
        (header(b'0', b"a", 0, &gnu), b"a", "GNU has times there"),
        (plain(&full), &full, "no NUL at the end"),
        (
            [with_data(b'L', &[&name[..], b"\0"].concat()), plain(b"a")].concat(),
            &name,
            "GNU",
        ),
        (
            [with_data(b'L', &name), plain(b"a")].concat(),
            &name,
            "GNU without a NUL",
        ),
        (
            [pax(&[("path", &path)]), plain(b"a")].concat(),
            &path,
            "PAX",
        ),
        (
            [pax(&[("path", b"x"), ("path", b"")]), plain(b"a")].concat(),
            b"a",
            "taken back",
        ),
        (
            [pax(&[("path", b"x"), ("path", b"y")]), plain(b"a")].concat(),
            b"y",
            "the last one",
        ),
        (
            [with_data(b'g', &record("path", b"x")), plain(b"a")].concat(),
            b"a",
            "for all",
        ),
    ] {
        assert_eq!(show(&one(&archive).path), show(expected), "{why}");
    }
    for kind in [b'1', b'2'] {
        let link = header(kind, b"a", 0, &[]);
        let target = match kind {
            b'1' => Kind::HardLink(name.clone()),
            _ => Kind::Symlink(name.clone()),
        };
        assert_eq!(
            one(&[with_data(b'K', &name), link.clone()].concat()).kind,
            target
        );
        assert_eq!(
            one(&[pax(&[("linkpath", &name)]), link].concat()).kind,
            target
        );
    }
}

#[test]
fn a_path_is_its_components_and_none_leads_out() {
    for (raw, expected) in [
        (&b"./"[..], &b""[..]),
        (b".", b""),
        (b"./a", b"a"),
        (b"a//b/./c/", b"a/b/c"),
        (b"...", b"..."),
        (b"..a/a..", b"..a/a.."),
        (b"caf\xe9", b"caf\xe9"),
        (b"/", b""),
        (b"/etc/passwd", b"etc/passwd"),
        (b"//a", b"a"),
        (b"a/..", b""),
        (b"a/b/../c", b"a/c"),
        (b"a/../b", b"b"),
    ] {
        assert_eq!(checked_path(raw).unwrap(), expected, "{}", show(raw));
    }
    let long_name = b"n".repeat(256);
    let long_path = b"1234567/".repeat(513);
    for (raw, why) in [
        (&b".."[..], ".."),
        (b"../a", ".."),
        (b"/../a", ".."),
        (b"a/../../b", ".."),
        (b"./..", ".."),
        (b"", "an empty path"),
        (&long_name, "too long"),
        (&long_path, "too long"),
    ] {
        let mut archives = vec![[pax(&[("linkpath", raw)]), header(b'1', b"a", 0, &[])].concat()];
        if !raw.is_empty() {
            archives.push([pax(&[("path", raw)]), plain(b"a")].concat());
            archives.push([with_data(b'L', raw), plain(b"a")].concat());
        }
        for archive in archives {
            let found = refusal(&archive);
            assert!(found.contains(why), "{}: {found}", show(raw));
        }
    }
    let nul = [pax(&[("path", b"a\0b")]), plain(b"a")].concat();
    assert_eq!(
        refusal(&nul),
        "a\\0b: an empty path, or one with a NUL byte"
    );
    assert_eq!(checked_path(&b"n".repeat(255)).unwrap().len(), 255);
    assert_eq!(checked_path(&long_path[..4096]).unwrap().len(), 4095);
}

#[test]
fn what_cannot_be_of_a_file_is_refused_by_its_name() {
    let minus = [0xff; 12];
    let huge = *b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff";
    for (kind, field, bytes, why) in [
        (
            b'0',
            Header::UID,
            &minus[..8],
            "-1 in a header is out of range",
        ),
        (b'0', Header::GID, &huge[4..], "in a header is no number"),
        (
            b'0',
            Header::UID,
            b"\x80\0\0\0\xff\xff\xff\xff",
            "owner or group 4294967295 is out of range",
        ),
        (
            b'0',
            Header::MODE,
            b"rwxr-xr-",
            "\"rwxr-xr-\" in a header is no number",
        ),
        (b'0', Header::MODIFIED, b"yesterday\0", "is no number"),
        (
            b'3',
            Header::MAJOR,
            b"0010000\0",
            "device number 4096:0 is out of range",
        ),
        (
            b'4',
            Header::MINOR,
            b"4000000\0",
            "device number 0:1048576 is out of range",
        ),
        (
            b'3',
            Header::MINOR,
            &minus[..8],
            "device number 0:-1 is out of range",
        ),
        (
            b'2',
            Header::LINK,
            b"\0",
            "a symlink with an empty or too long target",
        ),
        (b'1', Header::LINK, b"../b", "a path with .. in it"),
        (b'Z', Header::LINK, b"", "an entry of unknown type Z"),
        (0xff, Header::LINK, b"", "an entry of unknown type \\xff"),
    ] {
        let found = refusal(&header(kind, b"some/file", 0, &[(field, bytes)]));
        assert!(
            found.starts_with("some/file: ") && found.contains(why),
            "{why}: {found}"
        );
    }
    // The size is read before it is clear what it is of.
    for bytes in [&minus[..], b"size"] {
        let found = refusal(&header(b'0', b"a", 0, &[(Header::SIZE, bytes)]));
        assert!(found.contains(" in a header "), "{found}");
    }
    for (keyword, value, why) in [
        (
            "size",
            "9223372036854775808",
            "9223372036854775808 bytes are more than any file has",
        ),
        ("size", "18446744073709551616", "is no number"),
        ("size", "-1", "is no number"),
        (
            "uid",
            "4294967295",
            "a: owner or group 4294967295 is out of range",
        ),
        ("gid", "1e3", "\"1e3\" in an extended header is no number"),
        ("mtime", "now", "\"now\" in an extended header is no number"),
        ("SCHILY.xattr.", "1", "an xattr called \"\""),
        ("SCHILY.xattr.a\0", "1", "an xattr called"),
    ] {
        let found = refusal(&[pax(&[(keyword, value.as_bytes())]), plain(b"a")].concat());
        assert!(found.contains(why), "{keyword}={value}: {found}");
    }
}

#[test]
fn a_record_that_makes_no_sense_is_refused() {
    let found = refusal(&[with_data(b'x', b"11 path=a\n"), plain(b"a")].concat());
    assert_eq!(found, "an extended header has a malformed record");
    // An empty extended header says nothing, which is no error.
    let archive = [with_data(b'x', b""), plain(b"a")].concat();
    assert_eq!(one(&archive).path, b"a");
}

#[test]
fn extended_headers_take_no_more_memory_than_they_may() {
    let too_much = MAX_EXTENDED as usize + 1;
    for archive in [
        header(b'x', b"x", 1 << 30, &[]),
        header(b'L', b"x", MAX_EXTENDED + 1, &[]),
        header(b'K', b"x", u64::from(u32::MAX), &[]),
        // Many of them, each as large as it may be.
        [
            with_data(b'x', &record("comment", &vec![b'x'; too_much / 2])),
            with_data(b'x', &record("comment", &vec![b'x'; too_much / 2])),
        ]
        .concat(),
    ] {
        let found = refusal(&archive);
        assert!(
            found.starts_with("an extended header of ") && found.contains(" 1048576 "),
            "{found}"
        );
    }
    let most = [
        with_data(
            b'L',
            &[&vec![b'n'; 200][..], &vec![0; too_much - 201]].concat(),
        ),
        plain(b"a"),
    ];
    // The extended headers of one entry do not count for the next.
    let found = read(&[most.concat(), most.concat()].concat()).unwrap();
    assert_eq!(found.len(), 2);
}

#[test]
fn a_wrong_checksum_is_no_archive() {
    let good = plain(b"name");
    assert_eq!(read(&good).unwrap().len(), 1);
    for n in 0..good.len() {
        let mut bad = good.clone();
        bad[n] ^= 1;
        let found = read(&bad);
        // The last two bytes of the checksum's field are a NUL and a blank; they may be anything.
        let may_be = [Header::CHECKSUM.end - 2, Header::CHECKSUM.end - 1].contains(&n);
        assert!(found.is_err() || may_be, "byte {n}: {found:?}");
    }
    for sum in [
        &b"        "[..],
        b"\0\0\0\0\0\0\0\0",
        b"\xff\xff\xff\xff\xff\xff\xff\xff",
    ] {
        assert!(read(&header(b'0', b"a", 0, &[(Header::CHECKSUM, sum)])).is_err());
    }
    for text in [&b"no archive"[..], &[b'x'; 512], &[b'x'; 5000]] {
        assert!(read(text).is_err());
    }
}

#[test]
fn an_archive_that_is_cut_off_is_noticed_wherever_that_is() {
    let archive = [
        pax(&[("path", b"a"), ("SCHILY.xattr.user.a", b"b")]),
        header(b'0', b"x", 700, &[]),
        filled(&[7; 700]),
        with_data(b'L', b"long"),
        header(b'0', b"x", 1, &[]),
        filled(b"1"),
        vec![0; 1024],
    ]
    .concat();
    let whole = read(&archive).unwrap();
    assert_eq!(whole.len(), 2);
    // Where an entry ends, an archive may too: not everybody writes the zeros at its end.
    let ends = [0, 5 * 512, 9 * 512];
    for length in 0..9 * 512 {
        let found = read(&archive[..length]);
        match ends.iter().position(|end| *end == length) {
            Some(n) => assert_eq!(found.unwrap(), whole[..n], "{length}"),
            None => assert!(found.is_err(), "{length}: {found:?}"),
        }
    }
    for length in 9 * 512..archive.len() {
        let found = read(&archive[..length]);
        let is_cut = (9 * 512 + 1..10 * 512).contains(&length);
        assert_eq!(found.is_err(), is_cut, "{length}: {found:?}");
    }
}

#[test]
fn what_follows_the_end_is_read_and_means_nothing() {
    let archive = [plain(b"a"), vec![0; 512], plain(b"b"), b"junk".to_vec()].concat();
    let mut rest = &archive[..];
    let mut entries = Members::new(&mut rest);
    assert_eq!(entries.next_entry().unwrap().unwrap().path, b"a");
    assert!(entries.next_entry().unwrap().is_none());
    entries.drain().unwrap();
    assert!(rest.is_empty());
    assert!(read(b"").unwrap().is_empty());
}

/// A file of 4000 bytes, of which the archive has two pieces, in every form that GNU tar writes or wrote.
#[test]
fn sparse_files_are_read_in_every_form() {
    let data = [&[1; 100][..], &[2; 50]].concat();
    let mut expected = vec![0; 4000];
    expected[1000..1100].fill(1);
    expected[3000..3050].fill(2);
    let old_piece = |offset: u64, size: u64| format!("{offset:011o}\0{size:011o}\0").into_bytes();
    let (first, second) = (old_piece(1000, 100), old_piece(3000, 50));
    let more = [&first[..], &second, &old_piece(4000, 0)].concat();
    let real: &[u8] = b"00000007640\0";
    let name: (&str, &[u8]) = ("GNU.sparse.name", b"real");
    let numbers = b"3\n1000\n100\n3000\n50\n4000\n0\n";
    let archives = [
        (
            "old GNU",
            vec![header(
                b'S',
                b"real",
                150,
                &[(386..482, &more), (Header::REAL_SIZE, real)],
            )],
        ),
        (
            "old GNU, the map goes on",
            vec![
                header(
                    b'S',
                    b"real",
                    150,
                    &[
                        (386..482, &first),
                        (482..483, b"\x01"),
                        (Header::REAL_SIZE, real),
                    ],
                ),
                filled(&second),
            ],
        ),
        (
            "PAX 0.0",
            vec![
                pax(&[
                    ("GNU.sparse.size", b"4000"),
                    ("GNU.sparse.numblocks", b"3"),
                    ("GNU.sparse.offset", b"1000"),
                    ("GNU.sparse.numbytes", b"100"),
                    ("GNU.sparse.offset", b"3000"),
                    ("GNU.sparse.numbytes", b"50"),
                    ("GNU.sparse.offset", b"4000"),
                    ("GNU.sparse.numbytes", b"0"),
                ]),
                header(b'0', b"real", 150, &[]),
            ],
        ),
        (
            "PAX 0.1",
            vec![
                pax(&[
                    ("GNU.sparse.size", b"4000"),
                    ("GNU.sparse.map", b"1000,100,3000,50,4000,0"),
                    name,
                ]),
                header(b'0', b"GNUSparseFile.1/real", 150, &[]),
            ],
        ),
        (
            "PAX 1.0",
            vec![
                pax(&[
                    ("GNU.sparse.major", b"1"),
                    ("GNU.sparse.minor", b"0"),
                    ("GNU.sparse.realsize", b"4000"),
                    name,
                ]),
                header(b'0', b"GNUSparseFile.1/real", 512 + 150, &[]),
                filled(numbers),
            ],
        ),
    ];
    for (form, headers) in archives {
        let archive = [headers.concat(), filled(&data), plain(b"z")].concat();
        let found = read(&archive).unwrap_or_else(|why| panic!("{form}: {why}"));
        assert_eq!(found.len(), 2, "{form}");
        assert_eq!(found[0].0.path, b"real", "{form}");
        assert!(found[0].1 == expected, "{form}: {:?}", found[0].0);
    }
}

#[test]
fn a_map_of_a_sparse_file_that_lies_is_refused() {
    for (map, size, data, why) in [
        ("0,10", "5", 10, "after the end of the file"),
        ("5,5,0,5", "10", 10, "backwards"),
        ("0,5,3,5", "10", 10, "one over another"),
        ("0,5", "10", 6, "less than there is"),
        ("0,5", "10", 4, "more than there is"),
        ("0,5,7", "10", 5, "half a piece"),
        ("0,x", "10", 5, "no number"),
        (
            "0,18446744073709551615,1,1",
            "10",
            5,
            "more than any number",
        ),
        ("", "10", 0, "nothing at all"),
    ] {
        let records = [
            ("GNU.sparse.size", size.as_bytes()),
            ("GNU.sparse.map", map.as_bytes()),
        ];
        let archive = [pax(&records), header(b'0', b"a", data, &[]), vec![0; 512]];
        let found = read(&archive.concat());
        assert!(found.is_err(), "{why}: {found:?}");
    }
    let form_1: [(&str, &[u8]); 2] = [("GNU.sparse.major", b"1"), ("GNU.sparse.realsize", b"10")];
    let many = format!("{}\n", MAX_PIECES + 1);
    for (data, why) in [
        (&b"1\n0\n"[..], "it goes on in data that is not there"),
        (b"1\n0\n20\n", "after the end of the file"),
        (b"x\n", "no number"),
        (many.as_bytes(), "too many pieces"),
        (&[b'1'; 2000], "a number without an end"),
    ] {
        let size = data.len().next_multiple_of(512) as u64;
        let archive = [pax(&form_1), header(b'0', b"a", size, &[]), filled(data)];
        let found = read(&archive.concat());
        assert!(found.is_err(), "{why}: {found:?}");
    }
    let pieces = "0,0,".repeat(MAX_PIECES + 1);
    let map = pieces.trim_end_matches(',').as_bytes();
    let found = refusal(&[pax(&[("GNU.sparse.map", map)]), plain(b"a")].concat());
    assert!(found.contains("more than 65536 pieces"), "{found}");
    // Map blocks of the oldest form that never end.
    let piece = b"00000000001\x0000000000000\0";
    let block = [&piece.repeat(21)[..], &[1; 8]].concat();
    let start = header(
        b'S',
        b"a",
        0,
        &[(386..482, &piece.repeat(4)), (482..483, b"\x01")],
    );
    let found = refusal(&[start, block.repeat(MAX_PIECES / 21 + 1)].concat());
    assert!(found.contains("more than 65536 pieces"), "{found}");
}

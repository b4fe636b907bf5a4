#!lua name=dpfs
-- The server's side of the `valkey` engine: what changes or reads several records of a volume, in one step.
--
-- KEYS[1] is the volume's prefix, "{volume}", which also names the hash slot, and no key; KEYS[2] is PREFIX .. "k". So
-- a node of a cluster that has only some of the slot's keys runs none of this. Records are named in ARGV as
-- Key::encode writes them: inode number (8 bytes, big-endian), kind, name or number. They are kept as
--
--   PREFIX .. kind .. inode   a string, for the kinds of which an inode has one
--   PREFIX .. kind .. inode   a hash by name (3 names, 2 extended attributes)
--   PREFIX .. kind .. inode   a sorted set in the order of bytes: number, version, value (4 positions, 6 orphans)
--   PREFIX .. 5 .. inode .. index   a string: a chunk of content, index in 4 bytes, big-endian
--   PREFIX .. 5 .. inode      a sorted set by number: which chunks there are, but for the first
--   PREFIX .. 9 .. inode      a hash, of a file that spreads: g, its generation, and i, which server raised that last
--   PREFIX .. 10 .. inode     a sorted set by number: the groups of chunks that were ever written to
--   PREFIX .. "k"             a hash: the size of chunks, when the volume was made, and whether its files spread
--   PREFIX .. "r"             a counter: the numbers given out
--   PREFIX .. "n"             a counter: the clients that changed something so far
--   PREFIX .. "i" .. counter  which server counted last
--   PREFIX .. "s" .. client   a string, the client's record: its number among the clients (3 bytes); from, the lowest
--                             sequence number whose result it wants (5); lost, the number at which the server was found
--                             to have forgotten what it had answered (5); and of each sequence number from the one
--                             before `from` on its result and one (7 bytes), or 0 when there is none. Before version 3
--                             a hash
--   PREFIX .. "u"             a sorted set: the clients by when they were heard of, in seconds
--   PREFIX .. "y"             a counter, raised before what is there is made durable
--
-- Where files spread, what lies behind their first MiB is in groups of chunks, each in a hash slot of its own. There
-- KEYS[1] is the group's prefix, "{volume.inode.group}" with both numbers in hexadecimal, and no key either; KEYS[2] is
-- the group's fence.
--
--   PREFIX .. "f"             a hash, the fence: g, the highest generation that was seen here; l, where files of earlier
--                             generations were cut, as generation and byte (7 bytes each), both growing; x, that it
--                             stands for a while only, as the group was removed; and by client, the highest count of connections that it had lost, and when
--                             that came
--   PREFIX .. index           a string: a chunk of content, index in 4 bytes, big-endian
--
-- The stored value of a record is its version (8 bytes) and its value. A version is the number of the client that made
-- it (3 bytes) and its sequence number (5 bytes). Numbers in Lua are exact below 2^53 only, so fields of 64 bits are
-- taken in halves.

-- Raised when a function comes or changes. Later versions do for earlier clients what theirs did.
local VERSION = 4
local XATTR, NAME, POSITION, ORPHAN = 2, 3, 4, 6
-- Most chunks that one call looks at, and most keys that one SCAN does.
local STEP, SCANNED = 256, 500
-- Changes of a client after which it is heard of again; most that are forgotten then.
local BATCH = 32
-- First number that is given out; files have those from here on.
local FIRST_NUMBER = 1024
-- Seconds after which a client that was not heard of is forgotten: 30 days.
local CLIENT_LIFE = 2592000
local HALF = 4294967296
-- What stands for the version and value of a record in a list of which only the names are wanted.
local NO_VERSION = ('\0'):rep(8)
-- Bytes of a client's record before its results, and of each.
local HEAD, EACH = 13, 7
-- Counts that another server leaves out: more than were ever given out and lost with the one before.
local LOST_NUMBERS, LOST_CLIENTS, LOST_GENERATIONS = 16777216, 64, 1048576
-- Most cuts, and clients, that a fence knows; and seconds that it stands when the file was removed, or remembers a client.
local CUTS, CLIENTS, FENCE_LIFE, LATE = 32, 64, 3600, 86400
-- Bytes of a cut.
local CUT = 14

local function this_server()
    return redis.call('INFO', 'replication'):match('master_replid:(%x+)') or ''
end

-- Adds to a counter, and gives what it is then. A server that was behind when it came back, or a replica that took its
-- place, does not know what was given out last, and who got it still uses it. So another server than before leaves some out.
local function counted(prefix, counter, count, lost)
    local here = this_server()
    local before = redis.call('GET', prefix .. 'i' .. counter)
    if before ~= here then redis.call('SET', prefix .. 'i' .. counter, here) end
    if before and before ~= here then count = count + lost end
    return redis.call('INCRBY', prefix .. counter, count)
end

-- Where a record is kept: key, kind, name or number.
local function place(prefix, key)
    return prefix .. key:sub(9, 9) .. key:sub(1, 8), key:byte(9), key:sub(10)
end

local function listed(kind)
    return kind == POSITION or kind == ORPHAN
end

local function named(kind)
    return kind == XATTR or kind == NAME
end

-- The member of a sorted set that begins with a number of 8 bytes. "[" and the number is the least that does;
-- behind it and 0xff no other number comes before, as a member is longer than a number and its version is not 0xff.
local function member(at, number)
    return redis.call('ZRANGEBYLEX', at, '[' .. number, '(' .. number .. '\255', 'LIMIT', 0, 1)[1]
end

-- The stored value of a record, or false.
local function load(prefix, key)
    local at, kind, tail = place(prefix, key)
    if listed(kind) then
        local found = member(at, tail)
        return found and found:sub(9)
    elseif named(kind) then
        return redis.call('HGET', at, tail)
    end
    return redis.call('GET', at)
end

local function remove(prefix, key)
    local at, kind, tail = place(prefix, key)
    if listed(kind) then
        local found = member(at, tail)
        if found then redis.call('ZREM', at, found) end
    elseif named(kind) then
        redis.call('HDEL', at, tail)
    else
        redis.call('DEL', at)
    end
end

-- Keeps a stored value: version and value.
local function store(prefix, key, stored)
    local at, kind, tail = place(prefix, key)
    if listed(kind) then
        remove(prefix, key)
        redis.call('ZADD', at, 0, tail .. stored)
    elseif named(kind) then
        redis.call('HSET', at, tail, stored)
    else
        redis.call('SET', at, stored)
    end
end

-- The number of `bits` / 8 bytes at byte `at` of a value, low half first; nothing when it reaches beyond.
local function halves(value, at, bits)
    if at + bits / 8 > #value then return end
    if bits == 32 then return (struct.unpack('<I4', value, at + 1)) end
    local low, high = struct.unpack('<I4I4', value, at + 1)
    return low, high
end

-- What a field of a stored value becomes: S bytes, M at least, A add to 64 bits, a add to 32 bits, C clear bits. Nothing
-- when it stays.
local function patched(stored, kind, at, bytes)
    if kind == 'S' then
        return at + #bytes <= #stored and bytes
    end
    local bits = (kind == 'M' or kind == 'A') and 64 or 32
    local low, high = halves(stored, at, bits)
    if not low then return end
    local by_low, by_high = halves(bytes, 0, bits)
    if kind == 'M' then
        return (high < by_high or (high == by_high and low < by_low)) and bytes
    elseif kind == 'A' then
        low = low + by_low
        high = (high + by_high + math.floor(low / HALF)) % HALF
        return struct.pack('<I4I4', low % HALF, high)
    elseif kind == 'a' then
        return struct.pack('<I4', (low + by_low) % HALF)
    end
    return struct.pack('<I4', bit.band(low, bit.bnot(by_low)) % HALF)
end

-- A stored value with this version and all patches: kind, place (2 bytes), length (2 bytes), bytes; again and again. It
-- is put together once when they come in the order of their places, as they mostly do.
local function patch(stored, version, patches)
    local from, done, pieces, count = 1, 8, {version}, 1
    while from <= #patches do
        local kind, at, len = struct.unpack('<c1I2I2', patches, from)
        at = at + 8
        if at < done then
            pieces[count + 1] = stored:sub(done + 1)
            stored = table.concat(pieces)
            done, pieces, count = 0, {}, 0
        end
        local bytes = patched(stored, kind, at, patches:sub(from + 5, from + 4 + len))
        if bytes then
            pieces[count + 1], pieces[count + 2] = stored:sub(done + 1, at), bytes
            done, count = at + #bytes, count + 2
        end
        from = from + 5 + len
    end
    pieces[count + 1] = stored:sub(done + 1)
    return table.concat(pieces)
end

-- Whether a stored value is as expected: A absent, P present, V this version, B these bits, L a field of at least this, E a
-- field of exactly this.
local function holds(stored, expect)
    local kind = expect:sub(1, 1)
    if kind == 'B' and stored then
        local at, mask, want = struct.unpack('<I2I4I4', expect, 2)
        return #stored >= at + 12 and bit.band(struct.unpack('<I4', stored, at + 9), mask) == bit.tobit(want)
    end
    if kind == 'A' or not stored then return kind == 'A' and not stored end
    if kind == 'P' then return true end
    if kind == 'V' then return stored:sub(1, 8) == expect:sub(2, 9) end
    local at, want_low, want_high = struct.unpack('<I2I4I4', expect, 2)
    local low, high = halves(stored, 8 + at, 64)
    if kind == 'E' then return low == want_low and high == want_high end
    return low ~= nil and (high > want_high or (high == want_high and low >= want_low))
end

local function record_at(prefix, client)
    return prefix .. 's' .. client
end

-- The result of a sequence number in a client's record, or nothing.
local function answer(record, from, sequence)
    local at = HEAD + (sequence - (from > 1 and from - 1 or 0)) * EACH
    if at < HEAD or at + EACH > #record then return end
    local result = struct.unpack('>I7', record, at + 1)
    if result > 0 then return result - 1 end
end

-- Notes that a client was heard of, and forgets some of which nothing was heard for long.
local function heard(prefix, client)
    local all, now = prefix .. 'u', tonumber(redis.call('TIME')[1])
    redis.call('ZADD', all, now, client)
    local old = redis.call('ZRANGE', all, 0, now - CLIENT_LIFE, 'BYSCORE', 'LIMIT', 0, BATCH)
    for _, each in ipairs(old) do
        redis.call('DEL', record_at(prefix, each))
        redis.call('ZREM', all, each)
    end
end

-- The record of a client that has none yet: as version 2 of this library kept it, or a new one.
local function first_record(prefix, client)
    local at = record_at(prefix, client)
    heard(prefix, client)
    if redis.call('TYPE', at).ok ~= 'hash' then
        return struct.pack('>I3I5I5', counted(prefix, 'n', 1, LOST_CLIENTS), 0, 0)
    end
    local fields, numbers, last = redis.call('HGETALL', at), {}, 0
    for each = 1, #fields, 2 do
        local number = tonumber(fields[each])
        numbers[number or fields[each]] = tonumber(fields[each + 1])
        last = math.max(last, number or 0)
    end
    local from = numbers.from or 0
    local record = {struct.pack('>I3I5I5', numbers.id, from, numbers.lost or 0)}
    for each = math.max(from - 1, 0), last do
        record[#record + 1] = struct.pack('>I7', numbers[each] and numbers[each] + 1 or 0)
    end
    return table.concat(record)
end

-- Begins what is done once for each sequence number of a client: client, sequence, ack, "1" when the number before `ack`
-- was answered. Results of numbers below `ack` are not asked for again. Gives the result that is known already; or
-- nothing, the version that is made, and the client's record.
local function begun(prefix, argv, record)
    local sequence, ack = tonumber(argv[2]), tonumber(argv[3])
    if not record then
        record = first_record(prefix, argv[1])
    elseif sequence % BATCH == 0 then
        heard(prefix, argv[1])
    end
    local from = struct.unpack('>I5', record, 4)
    local known = answer(record, from, sequence)
    if known then return known end
    -- What was acknowledged can only come again out of a connection that was given up long ago.
    if sequence < from or sequence < ack then return redis.error_reply('DPFS stale sequence number') end
    return nil, record:sub(1, 3) .. struct.pack('>I5', sequence), record
end

-- The client's record when that is done: with its result, and without those that are not wanted any more. That of the
-- number before `ack` stays, to tell a server that was behind when it came back, or another that took its place.
local function ended(record, argv, result)
    local sequence, ack = tonumber(argv[2]), tonumber(argv[3])
    local from, lost = struct.unpack('>I5I5', record, 4)
    local first, next = from > 1 and from - 1 or 0, ack > 1 and ack - 1 or 0
    if ack > from then
        if argv[4] == '1' and ack > 1 and not answer(record, from, next) then lost = sequence end
        from = ack
    else
        next = first
    end
    local kept, at = record:sub(HEAD + (next - first) * EACH + 1), (sequence - next) * EACH
    if #kept < at then kept = kept .. ('\0'):rep(at - #kept) end
    local behind = #kept > at and kept:sub(at + EACH + 1) or ''
    if #kept > at then kept = kept:sub(1, at) end
    return record:sub(1, 3) .. struct.pack('>I5I5', from, lost) .. kept .. struct.pack('>I7', result + 1) .. behind
end

-- Does something once, with the version that it makes, and keeps its result.
local function once(prefix, argv, change)
    local at = record_at(prefix, argv[1])
    -- Of a hash MGET gives nothing, where GET would fail.
    local known, version, record = begun(prefix, argv, redis.call('MGET', at)[1])
    if known then return known end
    local result = change(version)
    redis.call('SET', at, ended(record, argv, result))
    return result
end

local function inode_at(prefix, ino)
    return prefix .. '\0' .. ino
end

-- The chunks of an inode but the first, by number.
local function chunks_at(prefix, ino)
    return prefix .. '\5' .. ino
end

local function chunk_at(prefix, ino, index)
    return prefix .. '\5' .. ino .. struct.pack('>I4', index)
end

-- Notes that an inode has a chunk.
local function list_chunk(prefix, ino, index, chunk)
    if index > 0 and redis.call('EXISTS', chunk) == 0 then redis.call('ZADD', chunks_at(prefix, ino), index, index) end
end

-- Writes bytes to the chunks of an inode.
local function write_chunks(prefix, ino, size, offset, bytes)
    local done = 0
    while done < #bytes do
        local inside = (offset + done) % size
        local index = (offset + done - inside) / size
        local count = math.min(size - inside, #bytes - done)
        -- A string of Lua is a copy, so the usual one piece is not cut.
        local piece = count == #bytes and bytes or bytes:sub(done + 1, done + count)
        local len = redis.call('SETRANGE', chunk_at(prefix, ino, index), inside, piece)
        -- One that is longer was there before.
        if index > 0 and len == inside + count then redis.call('ZADD', chunks_at(prefix, ino), index, index) end
        done = done + count
    end
end

-- Makes what a chunk has of the bytes `from` to `to` of its file zeros, or removes it: true.
local function clear_at(chunk, begin, from, to)
    local len = redis.call('STRLEN', chunk)
    local first, last = math.max(from - begin, 0), math.min(to - begin, len)
    if first == 0 and last == len then
        redis.call('UNLINK', chunk)
        return true
    elseif first < len and last == len then
        redis.call('SET', chunk, redis.call('GETRANGE', chunk, 0, first - 1))
    elseif first < last then
        redis.call('SETRANGE', chunk, first, ('\0'):rep(last - first))
    end
end

-- The same for a chunk of an inode.
local function clear(prefix, ino, index, size, from, to)
    local gone = clear_at(chunk_at(prefix, ino, index), index * size, from, to)
    if gone and index > 0 then redis.call('ZREM', chunks_at(prefix, ino), index) end
end

-- The inode that the first 8 bytes of a stored value name, or false.
local function followed(prefix, stored)
    local ino = #stored >= 16 and stored:sub(9, 16):reverse()
    return ino and redis.call('GET', inode_at(prefix, ino)) or false
end

-- "1" to let files spread or "0", behind the size of chunks: whether the volume is there: version of this library, size of
-- chunks, when it was made, and whether its files spread. With a size it is made.
local function volume(keys, argv)
    local at = keys[1] .. 'k'
    if argv[1] ~= '0' and redis.call('EXISTS', at) == 0 then
        local now = redis.call('TIME')
        redis.call('HSET', at, 'chunk', argv[1], 'made', now[1] .. '.' .. now[2], 'spread', argv[2] or '0')
    end
    local found = redis.call('HMGET', at, 'chunk', 'made', 'spread')
    return {VERSION, tonumber(found[1] or 0), found[2] or '', tonumber(found[3] or 0)}
end

redis.register_function{function_name = 'dpfs_volume', flags = {'allow-oom'}, callback = volume}
-- The same for clients that know of no files that spread.
redis.register_function{function_name = 'dpfs_open', flags = {'allow-oom'}, callback = function(keys, argv)
    local found = volume(keys, {argv[1]})
    if found[4] ~= 0 then return redis.error_reply('DPFS this volume is spread, and needs a newer version of dpfs') end
    return {found[1], found[2], found[3]}
end}
-- The version of this library, on a node that may have nothing of the volume.
redis.register_function{function_name = 'dpfs_version', flags = {'no-writes', 'allow-oom', 'allow-stale'},
    callback = function() return VERSION end}

-- What is done once, then number of checks, {key, expectation}, {key, P put | D delete | U patch, value}: 1, or 0 when
-- a check does not hold.
local function transact(keys, argv)
    local prefix = keys[1]
    return once(prefix, argv, function(version)
        local at = 6
        for _ = 1, tonumber(argv[5]) do
            if not holds(load(prefix, argv[at]), argv[at + 1]) then return 0 end
            at = at + 2
        end
        while at < #argv do
            local key, kind, value = argv[at], argv[at + 1], argv[at + 2]
            if kind == 'P' then
                store(prefix, key, version .. value)
            elseif kind == 'D' then
                remove(prefix, key)
            else
                local stored = load(prefix, key)
                if stored then store(prefix, key, patch(stored, version, value)) end
            end
            at = at + 3
        end
        return 1
    end)
end

redis.register_function('dpfs_transact', transact)
-- The same for what takes away, or adds little, so that there is a way back from a store that is full.
redis.register_function{function_name = 'dpfs_release', flags = {'allow-oom'}, callback = transact}

-- What is done once, then inode, expectation, patches, size of chunks, offset, bytes: 1, or 0 when the inode is not as
-- expected. With few calls of the server: they are what it costs.
redis.register_function('dpfs_write', function(keys, argv)
    local prefix, ino = keys[1], argv[5]
    local at, inode = record_at(prefix, argv[1]), inode_at(prefix, ino)
    local found = redis.call('MGET', at, inode)
    local known, version, record = begun(prefix, argv, found[1])
    if known then return known end
    local stored = found[2]
    if not stored or not holds(stored, argv[6]) then
        redis.call('SET', at, ended(record, argv, 0))
        return 0
    end
    write_chunks(prefix, ino, tonumber(argv[8]), tonumber(argv[9]), argv[10])
    redis.call('MSET', at, ended(record, argv, 1), inode, patch(stored, version, argv[7]))
    return 1
end)

-- What is done once, then inode, expectation and offset of the source; inode, expectation and patches of where it is
-- copied to, size of chunks, offset, number of bytes: 1, or 0 when an inode is not as expected.
redis.register_function('dpfs_copy', function(keys, argv)
    local prefix, source, ino = keys[1], argv[5], argv[8]
    return once(prefix, argv, function(version)
        if not holds(redis.call('GET', inode_at(prefix, source)), argv[6]) then return 0 end
        local stored = redis.call('GET', inode_at(prefix, ino))
        if not stored or not holds(stored, argv[9]) then return 0 end
        local size, from, to, left = tonumber(argv[11]), tonumber(argv[7]), tonumber(argv[12]), tonumber(argv[13])
        while left > 0 do
            local there, inside = from % size, to % size
            local index = (to - inside) / size
            local count = math.min(size - there, size - inside, left)
            local old, new = chunk_at(prefix, source, (from - there) / size), chunk_at(prefix, ino, index)
            local copied = count
            if count == size then
                -- A whole chunk is copied where it is.
                if redis.call('EXISTS', old) == 1 then
                    list_chunk(prefix, ino, index, new)
                    redis.call('COPY', old, new, 'REPLACE')
                else
                    copied = 0
                end
            else
                local bytes = redis.call('GETRANGE', old, there, there + count - 1)
                copied = #bytes
                if copied > 0 then
                    list_chunk(prefix, ino, index, new)
                    redis.call('SETRANGE', new, inside, bytes)
                end
            end
            if copied < count then clear(prefix, ino, index, size, to + copied, to + count) end
            from, to, left = from + count, to + count, left - count
        end
        redis.call('SET', inode_at(prefix, ino), patch(stored, version, argv[10]))
        return 1
    end)
end)

-- What is done once, then inode, from, to, size of chunks, expectation: 0, the byte to go on from, or 1 when the inode is
-- not as expected. Clients before version 4 expect nothing.
redis.register_function{function_name = 'dpfs_clear', flags = {'allow-oom'}, callback = function(keys, argv)
    local prefix, ino = keys[1], argv[5]
    local from, to, size = tonumber(argv[6]), tonumber(argv[7]), tonumber(argv[8])
    return once(prefix, argv, function()
        if argv[9] and not holds(redis.call('GET', inode_at(prefix, ino)), argv[9]) then return 1 end
        if from >= to then return 0 end
        local first = math.floor(from / size)
        if first == 0 then clear(prefix, ino, 0, size, from, to) end
        local found = redis.call('ZRANGE', chunks_at(prefix, ino), math.max(first, 1), math.ceil(to / size) - 1,
            'BYSCORE', 'LIMIT', 0, STEP + 1)
        for each = 1, math.min(#found, STEP) do clear(prefix, ino, tonumber(found[each]), size, from, to) end
        return found[STEP + 1] and found[STEP + 1] * size or 0
    end)
end}

-- Removes an inode that is as expected: 1, or 0.
local function purge(prefix, ino, expect)
    if not holds(redis.call('GET', inode_at(prefix, ino)), expect) then return 0 end
    redis.call('DEL', inode_at(prefix, ino), prefix .. '\1' .. ino, prefix .. '\2' .. ino)
    remove(prefix, ('\0'):rep(8) .. '\6' .. ino)
    return 1
end

-- What is done once, then inode, expectation: 1, or 0 when the inode is not as expected.
redis.register_function{function_name = 'dpfs_purge', flags = {'allow-oom'}, callback = function(keys, argv)
    local prefix, ino = keys[1], argv[5]
    return once(prefix, argv, function() return purge(prefix, ino, argv[6]) end)
end}

-- What is done once, then count: the first of so many numbers that nobody else gets.
redis.register_function{function_name = 'dpfs_reserve', flags = {'allow-oom'}, callback = function(keys, argv)
    local prefix = keys[1]
    return once(prefix, argv, function()
        local count = tonumber(argv[5])
        return FIRST_NUMBER + counted(prefix, 'r', count, LOST_NUMBERS) - count
    end)
end}

-- client, sequence, seen: 1 when what the client was answered up to this number is still there, 0 when some of it, since
-- the number `seen`, is not. Always changes something, for WAIT and WAITAOF to wait for.
redis.register_function{function_name = 'dpfs_kept', flags = {'allow-oom'}, callback = function(keys, argv)
    local sequence, seen = tonumber(argv[2]), tonumber(argv[3])
    redis.call('INCR', keys[1] .. 'y')
    local record = redis.call('MGET', record_at(keys[1], argv[1]))[1]
    if not record then return sequence <= seen and 1 or 0 end
    local _, from, lost = struct.unpack('>I3I5I5', record)
    if lost > seen then return 0 end
    return (from > sequence or answer(record, from, sequence) or sequence <= seen) and 1 or 0
end}

-- "1" to follow names or "0", {key}: for each key its stored value or nothing, and, when following, that of the inode
-- which the first 8 bytes of a name's value name.
redis.register_function{function_name = 'dpfs_get', flags = {'no-writes'}, callback = function(keys, argv)
    local prefix, follow, found = keys[1], argv[1] == '1', {}
    for at = 2, #argv do
        local stored = load(prefix, argv[at])
        found[#found + 1] = stored or false
        if follow then
            local name = stored and argv[at]:byte(9) == NAME
            found[#found + 1] = name and followed(prefix, stored) or false
        end
    end
    return found
end}

-- Finds content of an inode, or a hole, before the byte `size`, which stands for none: "=" and the byte when found, or "+"
-- and where to go on.
local function seek(prefix, ino, offset, size, chunk, hole)
    local first = math.floor(offset / chunk)
    local found = redis.call('ZRANGE', chunks_at(prefix, ino), math.max(first, 1), math.ceil(size / chunk) - 1,
        'BYSCORE', 'LIMIT', 0, STEP)
    local more = #found == STEP
    if first == 0 and redis.call('EXISTS', chunk_at(prefix, ino, 0)) == 1 then table.insert(found, 1, 0) end
    local function at(byte)
        return {'=', math.min(math.max(byte, offset), size)}
    end
    if not hole then return at(found[1] and found[1] * chunk or size) end
    for each = 1, #found do
        if tonumber(found[each]) ~= first then return at(first * chunk) end
        first = first + 1
    end
    return more and {'+', first * chunk} or at(first * chunk)
end

-- inode, offset, size of the file, size of chunks, "1" to find a hole: {"=", byte} when found, {"+", byte} where to go on.
redis.register_function{function_name = 'dpfs_seek', flags = {'no-writes'}, callback = function(keys, argv)
    return seek(keys[1], argv[1], tonumber(argv[2]), tonumber(argv[3]), tonumber(argv[4]), argv[5] == '1')
end}

-- inode, where to begin: names of a directory as they come, of each the place to go on behind, itself and its stored value,
-- behind "1" when there may be more or "0".
redis.register_function{function_name = 'dpfs_names', flags = {'no-writes'}, callback = function(keys, argv)
    local cursor, found, all = argv[2], {}, {'0'}
    repeat
        local reply = redis.call('HSCAN', keys[1] .. '\3' .. argv[1], cursor, 'COUNT', STEP)
        cursor, found = reply[1], reply[2]
    until cursor == '0' or #found > 0
    if cursor ~= '0' then all[1] = '1' end
    for each = 1, #found, 2 do
        all[#all + 1], all[#all + 2], all[#all + 3] = cursor, found[each], found[each + 1]
    end
    return all
end}

-- kind, inode, where to begin, most records, "1" to follow: "1" when there may be more or "0", then of each record its
-- number, name or, of inodes, the place to go on behind and the number; its stored value, of names 8 zeros; and, when
-- following, that of the inode which the value names. Positions and orphans begin at a number, names behind so many, inodes at a cursor of the server.
redis.register_function{function_name = 'dpfs_scan', flags = {'no-writes'}, callback = function(keys, argv)
    local prefix, kind, ino, follow = keys[1], argv[1]:byte(), argv[2], argv[5] == '1'
    local at, limit, all = prefix .. argv[1] .. ino, tonumber(argv[4]), {'0'}
    local function give(tail, stored)
        if #all > limit * (follow and 3 or 2) then
            all[1] = '1'
            return false
        end
        all[#all + 1], all[#all + 2] = tail, stored
        if follow then all[#all + 1] = followed(prefix, stored) end
        return true
    end
    if listed(kind) then
        for _, each in ipairs(redis.call('ZRANGEBYLEX', at, '[' .. argv[3], '+', 'LIMIT', 0, limit + 1)) do
            if not give(each:sub(1, 8), each:sub(9)) then break end
        end
    elseif named(kind) then
        local names = redis.call('HKEYS', at)
        table.sort(names)
        for each = tonumber(argv[3]) + 1, #names do
            if not give(names[each], NO_VERSION) then break end
        end
    else
        local cursor, found = argv[3], {}
        repeat
            local reply = redis.call('SCAN', cursor, 'MATCH', prefix .. '\0????????', 'COUNT', SCANNED)
            cursor, found = reply[1], reply[2]
        until cursor == '0' or #found > 0
        if cursor ~= '0' then all[1] = '1' end
        for _, each in ipairs(found) do
            all[#all + 1], all[#all + 2], all[#all + 3] = cursor, each:sub(-8), redis.call('GET', each)
        end
    end
    return all
end}

-- Files that spread. What is behind their first MiB is in groups, which are noted here before they are written to.

local function generation_at(prefix, ino)
    return prefix .. '\9' .. ino
end

local function groups_at(prefix, ino)
    return prefix .. '\10' .. ino
end

-- Whether a patch would raise a field: the size of a file that is made longer.
local function raises(stored, patches)
    local from = 1
    while from <= #patches do
        local kind, at, len = struct.unpack('<c1I2I2', patches, from)
        if kind == 'M' and patched(stored, kind, at + 8, patches:sub(from + 5, from + 4 + len)) then return true end
        from = from + 5 + len
    end
    return false
end

-- What is done once, then inode, expectation, patches, size of chunks, offset, first and last group that are written to,
-- generation that this ends (0: this begins), lowest generation, bytes that belong here: 0 when the inode is not as
-- expected, 1 when there is another generation by now; or twice the generation and 2, and 1 more when the inode has changed. A
-- write that makes a file longer changes the inode at its end, when its content is there; any other at its beginning.
redis.register_function('dpfs_spread_write', function(keys, argv)
    local prefix, ino = keys[1], argv[5]
    return once(prefix, argv, function(version)
        local stored = redis.call('GET', inode_at(prefix, ino))
        if not stored or not holds(stored, argv[6]) then return 0 end
        local at, ends, least = generation_at(prefix, ino), tonumber(argv[12]), tonumber(argv[13])
        local known = tonumber(redis.call('HGET', at, 'g') or 0)
        if ends > 0 and ends ~= known then return 1 end
        local generation = math.max(known, least, 1)
        local by_version, longer = argv[6]:sub(1, 1) == 'V', raises(stored, argv[7])
        -- Who takes a place at the end has others that make the file longer begin again: it may be theirs, too.
        if by_version and longer then generation = generation + 1 end
        if known == 0 then redis.call('HSET', at, 'i', this_server()) end
        if generation ~= known then redis.call('HSET', at, 'g', generation) end
        if ends == 0 then
            for group = tonumber(argv[10]), tonumber(argv[11]) do
                redis.call('ZADD', groups_at(prefix, ino), group, group)
            end
            -- Whoever goes by a version has nobody come between, and is told where its bytes belong.
            if longer and not by_version then return 2 * generation + 2 end
        end
        write_chunks(prefix, ino, tonumber(argv[8]), tonumber(argv[9]), argv[14])
        redis.call('SET', inode_at(prefix, ino), patch(stored, version, argv[7]))
        return 2 * generation + 3
    end)
end)

-- What is done once, then inode, expectation, from, to, size of chunks, where groups begin, "1" to raise the generation: 0
-- when the inode is not as expected, 1 when it has no groups, or its generation and 2.
redis.register_function{function_name = 'dpfs_spread_clear', flags = {'allow-oom'}, callback = function(keys, argv)
    local prefix, ino = keys[1], argv[5]
    local from, to, size, near = tonumber(argv[7]), tonumber(argv[8]), tonumber(argv[9]), tonumber(argv[10])
    return once(prefix, argv, function()
        if not holds(redis.call('GET', inode_at(prefix, ino)), argv[6]) then return 0 end
        local here = math.min(to, near)
        if from < here then
            local first = math.floor(from / size)
            if first == 0 then clear(prefix, ino, 0, size, from, here) end
            local found = redis.call('ZRANGE', chunks_at(prefix, ino), math.max(first, 1), math.ceil(here / size) - 1,
                'BYSCORE')
            for _, index in ipairs(found) do clear(prefix, ino, tonumber(index), size, from, here) end
        end
        local at = generation_at(prefix, ino)
        local generation, before = unpack(redis.call('HMGET', at, 'g', 'i'))
        if not generation then return 1 end
        generation = tonumber(generation)
        if argv[11] == '1' then
            local server = this_server()
            -- Another server than before may not know the last ones.
            generation = generation + (before == server and 1 or LOST_GENERATIONS)
            redis.call('HSET', at, 'g', generation, 'i', server)
        end
        return generation + 2
    end)
end}

-- inode, first and last group, most groups: the generation or 0, how many groups there are, and those in the range.
redis.register_function{function_name = 'dpfs_groups', flags = {'no-writes'}, callback = function(keys, argv)
    local prefix, ino = keys[1], argv[1]
    local at = groups_at(prefix, ino)
    local all = {tonumber(redis.call('HGET', generation_at(prefix, ino), 'g') or 0), redis.call('ZCARD', at)}
    local found = redis.call('ZRANGE', at, argv[2], argv[3], 'BYSCORE', 'LIMIT', 0, argv[4])
    for _, group in ipairs(found) do all[#all + 1] = tonumber(group) end
    return all
end}

-- What is done once, then inode, expectation, number of its groups that were removed: 1; 0 when the inode is not as
-- expected, 2 when it has other groups.
redis.register_function{function_name = 'dpfs_spread_purge', flags = {'allow-oom'}, callback = function(keys, argv)
    local prefix, ino = keys[1], argv[5]
    return once(prefix, argv, function()
        if not holds(redis.call('GET', inode_at(prefix, ino)), argv[6]) then return 0 end
        if redis.call('ZCARD', groups_at(prefix, ino)) ~= tonumber(argv[7]) then return 2 end
        redis.call('DEL', generation_at(prefix, ino), groups_at(prefix, ino))
        return purge(prefix, ino, argv[6])
    end)
end}

-- inode, offset, size of the file, size of chunks, "1" to find a hole, where groups begin, chunks of a group: as
-- dpfs_seek, or {"g", byte} where to ask the group there.
redis.register_function{function_name = 'dpfs_spread_seek', flags = {'no-writes'}, callback = function(keys, argv)
    local prefix, ino, hole = keys[1], argv[1], argv[5] == '1'
    local offset, size, chunk, near = tonumber(argv[2]), tonumber(argv[3]), tonumber(argv[4]), tonumber(argv[6])
    if offset < near then
        local last = math.min(size, near)
        local found = seek(prefix, ino, offset, last, chunk, hole)
        if found[1] == '+' or found[2] < last or last == size then return found end
        offset = near
    end
    local bytes, at = chunk * tonumber(argv[7]), groups_at(prefix, ino)
    local first = math.floor(offset / bytes)
    if hole then
        local known = redis.call('ZSCORE', at, first)
        return {known and 'g' or '=', math.min(offset, size)}
    end
    local next = redis.call('ZRANGE', at, first, math.ceil(size / bytes) - 1, 'BYSCORE', 'LIMIT', 0, 1)[1]
    return {next and 'g' or '=', next and math.max(next * bytes, offset) or size}
end}

-- Of a group from here on: client, and how many connections it has lost, come first.

-- What a fence knows: its highest generation, cuts, whether the group was removed. Nothing for a command that was given up with
-- its connection, and done again by another since.
local function fence(at, argv)
    local client, lost = argv[1], tonumber(argv[2])
    local found = redis.call('HMGET', at, 'g', 'l', 'x', client)
    local before = found[4] and tonumber(found[4]:match('%d+')) or 0
    if lost < before then return nil end
    if lost > before then
        local now = tonumber(redis.call('TIME')[1])
        redis.call('HSET', at, client, lost .. ' ' .. now)
        if redis.call('HLEN', at) > CLIENTS then
            local all = redis.call('HGETALL', at)
            for each = 1, #all, 2 do
                local came = tonumber(all[each + 1]:match('^%d+ (%d+)$'))
                if #all[each] > 1 and came and came + LATE < now then redis.call('HDEL', at, all[each]) end
            end
        end
    end
    return tonumber(found[1] or 0), found[2] or '', found[3]
end

local function stale()
    return redis.error_reply('DPFS stale connection')
end

local function part_at(prefix, index)
    return prefix .. struct.pack('>I4', index)
end

-- generation, size of chunks, offset, bytes: 0; or the fence's generation where bytes were left out, because the file was
-- made shorter after this generation.
redis.register_function('dpfs_group_write', function(keys, argv)
    local generation, size, offset, bytes = tonumber(argv[3]), tonumber(argv[4]), tonumber(argv[5]), argv[6]
    local seen, cuts, removed = fence(keys[2], argv)
    if not seen then return stale() end
    local limit = offset + #bytes
    for at = #cuts - CUT + 1, 1, -CUT do
        local by, byte = struct.unpack('>I7I7', cuts, at)
        if by <= generation then break end
        limit = math.min(limit, byte)
    end
    local done = 0
    while offset + done < limit do
        local inside = (offset + done) % size
        local count = math.min(size - inside, limit - offset - done)
        local piece = count == #bytes and bytes or bytes:sub(done + 1, done + count)
        redis.call('SETRANGE', part_at(keys[1], (offset + done - inside) / size), inside, piece)
        done = done + count
    end
    if generation > seen then redis.call('HSET', keys[2], 'g', generation) end
    -- The file is there after all.
    if removed and done > 0 then
        redis.call('HDEL', keys[2], 'x')
        redis.call('PERSIST', keys[2])
    end
    return done < #bytes and seen or 0
end)

-- generation or 0, size of chunks, from, to, both in the group: 0. With a generation the file ends at `from`, and what comes late
-- of earlier ones is cut there; without, a hole is made.
redis.register_function{function_name = 'dpfs_group_clear', flags = {'allow-oom'}, callback = function(keys, argv)
    local generation, size, from, to = tonumber(argv[3]), tonumber(argv[4]), tonumber(argv[5]), tonumber(argv[6])
    local seen, cuts = fence(keys[2], argv)
    if not seen then return stale() end
    -- A later generation began when all of this one was cleared, by somebody.
    if generation > 0 and seen >= generation then return 0 end
    if generation > 0 then
        while #cuts > 0 and struct.unpack('>I7', cuts, #cuts - 6) >= from do cuts = cuts:sub(1, -1 - CUT) end
        cuts = cuts .. struct.pack('>I7I7', generation, from)
        if #cuts > CUTS * CUT then
            -- What is before the second cut is cut as it was before the first.
            cuts = cuts:sub(CUT + 1, CUT + 7) .. cuts:sub(8, CUT) .. cuts:sub(2 * CUT + 1)
        end
        redis.call('HSET', keys[2], 'g', generation, 'l', cuts)
    end
    local whole = {}
    for index = math.floor(from / size), math.ceil(to / size) - 1 do
        local part = part_at(keys[1], index)
        if from <= index * size and to >= (index + 1) * size then
            whole[#whole + 1] = part
        else
            clear_at(part, index * size, from, to)
        end
    end
    if #whole > 0 then redis.call('UNLINK', unpack(whole)) end
    return 0
end}

-- generation, first and last chunk: 0. The group is removed with its file, as if that was cut in the next generation; the
-- fence stands for a while, for what comes late.
redis.register_function{function_name = 'dpfs_group_remove', flags = {'allow-oom'}, callback = function(keys, argv)
    local seen = fence(keys[2], argv)
    if not seen then return stale() end
    local whole, generation = {}, math.max(seen, tonumber(argv[3]) + 1)
    for index = tonumber(argv[4]), tonumber(argv[5]) do whole[#whole + 1] = part_at(keys[1], index) end
    redis.call('UNLINK', unpack(whole))
    redis.call('HSET', keys[2], 'g', generation, 'l', struct.pack('>I7I7', generation, 0), 'x', '1')
    redis.call('EXPIRE', keys[2], FENCE_LIFE)
    return 0
end}

-- first and last chunk, "1" to find a hole: the first chunk that is there, or is not, and 1; or 0. Neither the client nor its
-- connections come first.
redis.register_function{function_name = 'dpfs_group_seek', flags = {'no-writes'}, callback = function(keys, argv)
    local wanted = argv[3] == '1' and 0 or 1
    for index = tonumber(argv[1]), tonumber(argv[2]) do
        if redis.call('EXISTS', part_at(keys[1], index)) == wanted then return index + 1 end
    end
    return 0
end}

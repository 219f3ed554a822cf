-- What wrk asks, and what it reports: one line of JSON.
--
--     wrk … -s load.lua URL -- KEYS METHOD PATH BODY EXPECTED
--
-- KEYS: a file with one API key a line; each request takes the next one. BODY: a file, or "-". EXPECTED: the status that
-- counts as an answer. Looking at each answer costs wrk some time, so it only does for those that it would call errors.

local requests, count, at = {}, 0, 0
local threads = {}

function setup(thread)
   table.insert(threads, thread)
end

function init(arguments)
   local keys, method, path, body_file, expected = unpack(arguments)
   local body = nil
   if body_file ~= "-" then
      local file = assert(io.open(body_file, "rb"))
      body = file:read("*a")
      file:close()
      wrk.headers["content-type"] = "application/json"
   end
   for key in io.lines(keys) do
      wrk.headers["x-api-key"] = key
      count = count + 1
      requests[count] = wrk.format(method, path, nil, body)
   end
   unexpected = 0
   if expected ~= "200" then
      local wanted = tonumber(expected)
      function response(status)
         if status ~= wanted then
            unexpected = unexpected + 1
         end
      end
   end
end

function request()
   at = at % count + 1
   return requests[at]
end

function done(summary, latency)
   local errors, unexpected = summary.errors, 0
   for _, thread in ipairs(threads) do
      unexpected = unexpected + thread:get("unexpected")
   end
   io.write(string.format(
      '{"requests": %d, "duration_us": %d, "p50_us": %d, "p99_us": %d, "errors": %d, "lost": %d, "unexpected": %d}\n',
      summary.requests, summary.duration, latency:percentile(50), latency:percentile(99), errors.status,
      errors.connect + errors.read + errors.write + errors.timeout, unexpected
   ))
end

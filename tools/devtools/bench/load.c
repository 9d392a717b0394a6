/* load: both ends of a benchmark, outside and inside, in one process without threads.
 *
 * Plays the scripts of traffic.py through a gateway: it is the wire behind the gateway's two interfaces, which are TAP
 * devices. So frames have any number of addresses, and what the gateway sends costs the gateway what a network card
 * would cost it: to put the frame on a ring. Each script is a chain: a message is sent when the one before has arrived,
 * so nothing is ever lost unseen and no slow peer stands in between. New chains begin at a steady rate. Knows SIP as
 * far as rows must be echoed.
 *
 * Usage: load KEY=VALUE...
 *   out=PATH,IF,MAC  in=PATH,IF,MAC   namespace, TAP device and its link address, of each side of the gateway
 *   external=IP:PORT internal=IP:PORT the gateway's sockets
 *   phones=N backends=N               how many; their addresses are those of player.py
 *   scripts=FILE                      as written by load.py
 * Then commands on stdin, one line of JSON as the answer to each:
 *   prepare PHONES                    register them, and open a dialog where a script wants one
 *   run MIX RATE MILLISECONDS         MIX: names of scripts, joined by +; RATE: messages per second
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sched.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

enum { OUT, IN, SIDES };
enum { SLOTS = 1 << 14, BATCH = 32, ROWS = 1536, STEPS = 16, SCRIPTS = 24, MTU = 65536, SAMPLES = 1 << 22 };

static void die(const char *format, ...)
{
    va_list values;
    va_start(values, format);
    fprintf(stderr, "load: ");
    vfprintf(stderr, format, values);
    fprintf(stderr, "\n");
    exit(1);
}

static uint64_t now_ns(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* What is played. */

struct step {
    int sender;
    size_t length;
    char *text;
};

struct script {
    char name[32];
    int opening;              /* so many of the steps open a dialog, once for each phone */
    int steps;
    int silent;               /* nothing of it arrives */
    struct step step[STEPS];
};

static struct script scripts[SCRIPTS];
static int script_count;

static struct script *script_named(const char *name)
{
    for (int i = 0; i < script_count; i++)
        if (!strcmp(scripts[i].name, name))
            return &scripts[i];
    die("there is no script %s", name);
    return NULL;
}

static void read_scripts(const char *path)
{
    FILE *file = fopen(path, "r");
    int opening, steps, silent, sender;
    size_t length;
    if (!file)
        die("%s: %s", path, strerror(errno));
    while (script_count < SCRIPTS) {
        struct script *s = &scripts[script_count];
        if (fscanf(file, " script %31s %d %d %d\n", s->name, &opening, &steps, &silent) != 4)
            break;
        if (steps > STEPS)
            die("script %s is too long", s->name);
        s->opening = opening, s->steps = steps, s->silent = silent;
        for (int i = 0; i < steps; i++) {
            if (fscanf(file, " step %d %zu", &sender, &length) != 2 || fgetc(file) != '\n')
                die("script %s is broken", s->name);
            s->step[i] = (struct step){sender, length, malloc(length)};
            if (fread(s->step[i].text, 1, length, file) != length)
                die("script %s is cut off", s->name);
        }
        script_count++;
    }
    fclose(file);
}

/* Rows that are echoed. */

struct rows {
    unsigned length;
    char text[ROWS];
};

static void add_row(struct rows *rows, const char *name, const char *value, size_t length, int before)
{
    size_t head = strlen(name), size = head + length + 2;
    if (rows->length + size > ROWS)
        die("more than %d bytes of %s rows", ROWS, name);
    char *at = rows->text + rows->length;
    if (before) {
        memmove(rows->text + size, rows->text, rows->length);
        at = rows->text;
    }
    memcpy(at, name, head);
    memcpy(at + head, value, length);
    memcpy(at + head + length, "\r\n", 2);
    rows->length += size;
}

struct dialog {
    uint64_t number;
    uint32_t backend;
    uint16_t backend_port;
    struct rows record, callee, caller;   /* %R %U %C */
};

struct phone {
    uint32_t address;
    uint16_t port;
    char here[24];                        /* %L */
    struct rows *path;                    /* %P */
    struct dialog *dialog;
};

struct slot {                             /* a chain on its way */
    uint64_t number, sent;
    struct script *script;
    struct phone *phone;
    struct dialog *dialog;                /* the phone's, or own */
    int step;
    int opening;                          /* plays the opening of the script */
    struct rows vias;                     /* %V */
    struct dialog own;
};

static struct phone *phones;
static uint32_t phone_count, prepared, backend_count;
static struct slot *slots;
static uint64_t next_number = 1;

/* Links. */

struct side {
    int fd;
    int counters;                         /* /proc/net/dev of the gateway's namespace */
    char name[IFNAMSIZ];
    struct { uint32_t address; uint16_t port; } gateway;
    uint8_t frame_head[14];
    unsigned waiting;                     /* frames in the batch */
    uint8_t *frame[BATCH];
    size_t length[BATCH];
    uint64_t *stamp[BATCH];               /* to be set to the time of sending */
};

static struct side sides[SIDES];
static uint8_t heard[MTU];
static uint16_t ident;

static struct {
    uint64_t sent, awaited, arrived, stray, begun, ended;
    uint64_t lag;                         /* the most by which a chain began late, ns */
    unsigned samples;
    char example[80];                     /* first line of a stray message */
} result;
static uint32_t *sample;
static int listening_only;

static void open_side(struct side *side, char *value)
{
    char *path = strtok(value, ","), *name = strtok(NULL, ","), *mac = strtok(NULL, ",");
    int own = open("/proc/self/ns/net", O_RDONLY), other = path ? open(path, O_RDONLY) : -1;
    struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI};
    unsigned m[6];
    if (!mac || sscanf(mac, "%x:%x:%x:%x:%x:%x", m, m + 1, m + 2, m + 3, m + 4, m + 5) != 6)
        die("a side is PATH,INTERFACE,MAC");
    if (own < 0 || other < 0 || setns(other, CLONE_NEWNET))
        die("%s: %s", path, strerror(errno));
    snprintf(side->name, sizeof side->name, "%s", name);
    memcpy(request.ifr_name, side->name, sizeof side->name);
    side->fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK);
    if (side->fd < 0 || ioctl(side->fd, TUNSETIFF, &request))
        die("/dev/net/tun, %s: %s", name, strerror(errno));
    side->counters = open("/proc/thread-self/net/dev", O_RDONLY);
    if (side->counters < 0)
        die("/proc/net/dev: %s", strerror(errno));
    for (int i = 0; i < 6; i++)
        side->frame_head[i] = (uint8_t)m[i];
    side->frame_head[6] = 2;
    side->frame_head[12] = 8;
    for (int i = 0; i < BATCH; i++)
        side->frame[i] = malloc(MTU);
    setns(own, CLONE_NEWNET);
    close(own);
    close(other);
}

static void flush(struct side *side)
{
    for (unsigned i = 0; i < side->waiting; i++) {
        *side->stamp[i] = now_ns(CLOCK_MONOTONIC);
        while (write(side->fd, side->frame[i], side->length[i]) < 0)
            if (errno != ENOBUFS && errno != EAGAIN && errno != EINTR)
                die("%s: send: %s", side->name, strerror(errno));
    }
    side->waiting = 0;
}

static uint32_t sum16(const uint8_t *at, size_t length, uint64_t sum)
{
    for (; length >= 4; at += 4, length -= 4) {
        uint32_t word;
        memcpy(&word, at, 4);
        sum += word;
    }
    if (length) {
        uint32_t word = 0;
        memcpy(&word, at, length);
        sum += word;
    }
    sum = (sum & 0xffffffff) + (sum >> 32);
    sum = (sum & 0xffffffff) + (sum >> 32);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    return (uint32_t)sum;
}

static char *put(char *at, const char *text, size_t length)
{
    memcpy(at, text, length);
    return at + length;
}

static char *put_rows(char *at, const struct rows *rows)
{
    return put(at, rows->text, rows->length);
}

static char *put_number(char *at, uint64_t number)
{
    for (int i = 9; i >= 0; i--, number /= 10)
        at[i] = (char)('0' + number % 10);
    return at + 10;
}

static char *put_endpoint(char *at, uint32_t address, uint16_t port)
{
    uint8_t b[4];
    memcpy(b, &address, 4);
    return at + sprintf(at, "%u.%u.%u.%u:%u", b[0], b[1], b[2], b[3], ntohs(port));
}

/* Send the step that the slot stands at. */
static void send_step(struct slot *slot)
{
    struct step *step = &slot->script->step[slot->step];
    struct side *side = &sides[step->sender];
    struct phone *phone = slot->phone;
    struct dialog *dialog = slot->dialog;
    uint8_t *frame = side->frame[side->waiting], *ip = frame + 14, *udp = ip + 20;
    char *begin = (char *)udp + 8, *at = begin;
    const char *text = step->text, *end = text + step->length;
    while (text < end) {
        const char *token = memchr(text, '%', (size_t)(end - text));
        if (!token)
            token = end;
        at = put(at, text, (size_t)(token - text));
        if (token == end)
            break;
        switch (token[1]) {
        case 'N': at = put_number(at, slot->number); break;
        case 'D': at = put_number(at, dialog->number); break;
        case 'L': at = put(at, phone->here, strlen(phone->here)); break;
        case 'B': at = put_endpoint(at, dialog->backend, dialog->backend_port); break;
        case 'V': at = put_rows(at, &slot->vias); break;
        case 'R': at = put_rows(at, &dialog->record); break;
        case 'U': at = put_rows(at, &dialog->callee); break;
        case 'C': at = put_rows(at, &dialog->caller); break;
        case 'P': if (phone->path) at = put_rows(at, phone->path); break;
        default: die("token %%%c", token[1]);
        }
        text = token + 2;
    }
    uint16_t payload = (uint16_t)(at - begin), port = step->sender == OUT ? phone->port : dialog->backend_port;
    uint32_t address = step->sender == OUT ? phone->address : dialog->backend;
    uint16_t words[14] = {htons(0x4500), htons((uint16_t)(28 + payload)), htons(ident++), 0, htons(64 << 8 | 17), 0};
    memcpy(words + 6, &address, 4);
    memcpy(words + 8, &side->gateway.address, 4);
    words[10] = port, words[11] = side->gateway.port, words[12] = htons((uint16_t)(8 + payload)), words[13] = 0;
    words[5] = (uint16_t)~sum16((uint8_t *)words, 20, 0);
    memcpy(frame, side->frame_head, 14);
    memcpy(ip, words, 28);
    uint64_t pseudo = sum16((uint8_t *)(words + 6), 8, (uint64_t)htons(17) + htons((uint16_t)(8 + payload)));
    uint16_t check = (uint16_t)~sum16(udp, 8u + payload, pseudo);
    check = check ? check : 0xffff;
    memcpy(udp + 6, &check, 2);
    side->length[side->waiting] = 42u + payload;
    side->stamp[side->waiting] = &slot->sent;
    if (++side->waiting == BATCH)
        flush(side);
    result.sent++;
    result.awaited += !slot->script->silent;
}

/* Begin a chain. `opening`: of the steps that open a dialog. */
static void begin(struct script *script, struct phone *phone, int opening)
{
    uint64_t number = next_number++;
    struct slot *slot = &slots[number % SLOTS];
    slot->number = number;
    slot->script = script, slot->phone = phone;
    slot->opening = opening;
    slot->step = opening ? 0 : script->opening;
    slot->vias.length = 0;
    if (phone->dialog) {
        slot->dialog = phone->dialog;
    } else {
        struct dialog *own = &slot->own;
        own->number = number;
        own->backend = htonl(0xc0a8010b + (uint32_t)(number % backend_count));
        own->backend_port = htons(5060);
        own->record.length = own->callee.length = own->caller.length = 0;
        slot->dialog = own;
    }
    if (script->opening && opening)
        slot->dialog->number = number;
    send_step(slot);
}

static void keep_rows(struct slot *slot, int invite, int request, const char *at, const char *end)
{
    struct dialog *dialog = slot->dialog;
    int registering = !strcmp(slot->script->name, "register");
    if (request)
        slot->vias.length = 0;
    if (invite)
        dialog->record.length = dialog->callee.length = 0;
    int routes = 0;
    while (at < end) {
        const char *stop = memchr(at, '\r', (size_t)(end - at));
        size_t length;
        if (!stop || stop == at)
            return;
        length = (size_t)(stop - at);
        if (request && length > 4 && !strncasecmp(at, "Via:", 4))
            add_row(&slot->vias, "Via:", at + 4, length - 4, 0);
        else if (length > 13 && !strncasecmp(at, "Record-Route:", 13)) {
            if (invite) {
                add_row(&dialog->record, "Record-Route:", at + 13, length - 13, 0);
                add_row(&dialog->callee, "Route:", at + 13, length - 13, 0);
            } else if (!request) {
                if (!routes++)
                    dialog->caller.length = 0;
                add_row(&dialog->caller, "Route:", at + 13, length - 13, 1);
            }
        } else if (registering && listening_only && length > 5 && !strncasecmp(at, "Path:", 5)) {
            if (!slot->phone->path)
                slot->phone->path = calloc(1, sizeof(struct rows));
            slot->phone->path->length = 0;
            add_row(slot->phone->path, "Route:", at + 5, length - 5, 0);
        }
        at = stop + 2;
    }
}

/* A frame has come at a side. */
static void arrive(int at_side, const uint8_t *frame, size_t length, uint64_t when)
{
    const uint8_t *ip = frame + 14;
    if (length < 42 || ip[9] != 17)
        return;
    const uint8_t *udp = ip + (ip[0] & 15) * 4;
    const char *message = (const char *)udp + 8, *end = (const char *)frame + length;
    const char *mark = memmem(message, (size_t)(end - message), "-bn", 3);
    uint64_t number = 0;
    struct slot *slot;
    if (mark && end - mark > 13)
        for (int i = 0; i < 10; i++)
            number = number * 10 + (uint64_t)(mark[3 + i] - '0');
    slot = &slots[number % SLOTS];
    if (!number || slot->number != number || slot->script->step[slot->step].sender == at_side || !slot->sent) {
        if (!result.stray++) {
            size_t shown = 0;
            for (; shown < sizeof result.example - 1 && message + shown < end && message[shown] >= ' ' &&
                   message[shown] < 127 && message[shown] != '"' && message[shown] != '\\'; shown++)
                result.example[shown] = message[shown];
            result.example[shown] = 0;
        }
        return;
    }
    result.arrived++;
    if (sample && result.samples < SAMPLES)
        sample[result.samples++] = when > slot->sent ? (uint32_t)(when - slot->sent) : 0;
    int request = strncmp(message, "SIP/", 4) != 0, invite = request && !strncmp(message, "INVITE ", 7);
    int last = slot->opening ? slot->script->opening : slot->script->steps;
    if (invite && at_side == IN) {
        memcpy(&slot->dialog->backend, ip + 16, 4);
        memcpy(&slot->dialog->backend_port, udp + 2, 2);
    }
    if (request ? last > 1 || listening_only : !strncmp(message + 8, "200", 3))
        keep_rows(slot, invite, request, message, end);
    slot->sent = 0;
    if (++slot->step < last)
        send_step(slot);
    else
        slot->number = 0;
}

static void drain(int at_side, int limit)
{
    ssize_t length;
    while (limit-- > 0 && (length = read(sides[at_side].fd, heard, sizeof heard)) > 0)
        arrive(at_side, heard, (size_t)length, now_ns(CLOCK_MONOTONIC));
}

/* Send what is ready, read what has come. It never sleeps: to be woken would cost the core under test an interrupt
 * to ours for every frame. */
static void turn(void)
{
    drain(OUT, 64);
    drain(IN, 64);
    for (int i = 0; i < SIDES; i++)
        if (sides[i].waiting)
            flush(&sides[i]);
}

/* Frames that found no room on the rings since the program began, as the kernel counts them. */
static uint64_t all_drops(void)
{
    char text[4096], *row;
    uint64_t all = 0, drops;
    for (int i = 0; i < SIDES; i++) {
        ssize_t length = pread(sides[i].counters, text, sizeof text - 1, 0);
        text[length > 0 ? length : 0] = 0;
        row = strstr(text, sides[i].name);
        /* Behind the colon: eight numbers of receiving, then bytes, packets, errors and drops of sending. */
        if (!row || !(row = strchr(row, ':')) ||
            sscanf(row + 1, "%*u %*u %*u %*u %*u %*u %*u %*u %*u %*u %*u %lu", &drops) != 1)
            die("/proc/net/dev knows nothing of %s", sides[i].name);
        all += drops;
    }
    return all;
}

/* The same since the last call. */
static uint64_t ring_drops(void)
{
    static uint64_t before;
    uint64_t all = all_drops(), since = all - before;
    before = all;
    return since;
}

static void clear(void)
{
    memset(&result, 0, sizeof result);
    for (int i = 0; i < SLOTS; i++)
        slots[i].number = 0;
    ring_drops();
}

static int by_value(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static double quantile(double q)
{
    unsigned at = (unsigned)(q * result.samples);
    return result.samples ? sample[at < result.samples ? at : result.samples - 1] / 1e3 : 0;
}

/* Wait until nothing has come for so long, or everything has. */
static void settle(uint64_t quiet_ns)
{
    uint64_t arrived = result.arrived, since = now_ns(CLOCK_MONOTONIC);
    while (result.arrived < result.awaited && now_ns(CLOCK_MONOTONIC) - since < quiet_ns) {
        turn();
        if (result.arrived != arrived)
            arrived = result.arrived, since = now_ns(CLOCK_MONOTONIC);
    }
}

static void prepare(uint32_t count)
{
    struct script *registration = script_named("register"), *opening = NULL;
    for (int i = 0; i < script_count; i++)
        if (scripts[i].opening)
            opening = &scripts[i];
    clear();
    listening_only = 1;
    prepared = count < phone_count ? count : phone_count;
    for (int dialogs = 0; dialogs < (opening ? 2 : 1); dialogs++)
        for (uint32_t i = 0; i < prepared; i++) {
            struct phone *phone = &phones[i];
            if (dialogs && !phone->dialog)
                phone->dialog = calloc(1, sizeof *phone->dialog), phone->dialog->backend_port = htons(5060);
            begin(dialogs ? opening : registration, phone, dialogs);
            /* The next when this one is through, so that none is lost for want of room. */
            settle(500000000);
            if (result.arrived < result.sent)
                i = prepared - 1;
        }
    listening_only = 0;
    printf("{\"sent\": %lu, \"arrived\": %lu, \"stray\": %lu, \"example\": \"%s\"}\n", result.sent, result.arrived,
           result.stray, result.example);
}

static void run(char *mix, double rate, uint64_t milliseconds)
{
    struct script *played[SCRIPTS];
    int count = 0;
    double messages = 0;
    int dialogs = 0;
    for (char *name = strtok(mix, "+"); name; name = strtok(NULL, "+")) {
        played[count] = script_named(name);
        messages += played[count]->steps - played[count]->opening;
        dialogs |= played[count]->opening > 0;
        count++;
    }
    double gap = 1e9 * messages / count / rate;
    uint32_t people = dialogs || strstr(played[count - 1]->name, "-out") ? prepared : phone_count;
    if (!people)
        die("prepare phones first");
    clear();
    sample = sample ? sample : malloc(SAMPLES * sizeof *sample);
    uint64_t begun = now_ns(CLOCK_MONOTONIC), end = begun + milliseconds * 1000000, now = begun;
    uint64_t begun_chains = 0, seed = next_number;
    while (now < end) {
        uint64_t due = begun + (uint64_t)((double)begun_chains * gap);
        if (due <= now && now - due > result.lag)
            result.lag = now - due;
        for (int i = 0; due <= now && i < BATCH; i++) {
            /* A prime apart, so that neighbours in time are none in address; the script follows from the turn. */
            struct phone *phone = &phones[(seed + begun_chains) * 7919 % people];
            struct dialog *dialog = phone->dialog;
            if (!dialogs)
                phone->dialog = NULL;
            begin(played[begun_chains % (uint64_t)count], phone, 0);
            phone->dialog = dialog;
            begun_chains++;
            due = begun + (uint64_t)((double)begun_chains * gap);
        }
        turn();
        now = now_ns(CLOCK_MONOTONIC);
    }
    double seconds = (double)(now - begun) / 1e9;
    uint64_t in_time = result.sent;
    settle(300000000);
    qsort(sample, result.samples, sizeof *sample, by_value);
    printf("{\"sent\": %lu, \"awaited\": %lu, \"arrived\": %lu, \"stray\": %lu, \"example\": \"%s\", \"seconds\": %.4f, \"rate\": %.1f, "
           "\"lag_ms\": %.2f, \"ring_drops\": %lu, \"p50\": %.1f, \"p90\": %.1f, \"p99\": %.1f, \"p999\": %.1f, "
           "\"max\": %.1f}\n",
           result.sent, result.awaited, result.arrived, result.stray, result.example, seconds, (double)in_time / seconds,
           (double)result.lag / 1e6, ring_drops(), quantile(0.5), quantile(0.9), quantile(0.99), quantile(0.999),
           quantile(1));
}

static void make_phones(void)
{
    phones = calloc(phone_count, sizeof *phones);
    for (uint32_t i = 0; i < phone_count; i++) {
        uint32_t high = i / 250;
        phones[i].address = htonl(0xc6120000u | (high % 250) << 8 | (i % 250 + 1));
        phones[i].port = htons((uint16_t)(40000 + high / 250));
        if (i % 2)
            sprintf(phones[i].here, "10.9.%u.9:5060", i % 200);
        else
            *put_endpoint(phones[i].here, phones[i].address, phones[i].port) = 0;
    }
}

static void read_endpoint(struct side *side, const char *text)
{
    unsigned a, b, c, d, port;
    if (sscanf(text, "%u.%u.%u.%u:%u", &a, &b, &c, &d, &port) != 5)
        die("%s is no address", text);
    side->gateway.address = htonl(a << 24 | b << 16 | c << 8 | d);
    side->gateway.port = htons((uint16_t)port);
}

int main(int argc, char **argv)
{
    char *places[SIDES] = {NULL, NULL}, line[256], mix[200];
    double rate;
    uint64_t milliseconds;
    for (int i = 1; i < argc; i++) {
        char *value = strchr(argv[i], '=');
        if (!value)
            die("%s is not KEY=VALUE", argv[i]);
        *value++ = 0;
        if (!strcmp(argv[i], "out")) places[OUT] = value;
        else if (!strcmp(argv[i], "in")) places[IN] = value;
        else if (!strcmp(argv[i], "external")) read_endpoint(&sides[OUT], value);
        else if (!strcmp(argv[i], "internal")) read_endpoint(&sides[IN], value);
        else if (!strcmp(argv[i], "phones")) phone_count = (uint32_t)atol(value);
        else if (!strcmp(argv[i], "backends")) backend_count = (uint32_t)atol(value);
        else if (!strcmp(argv[i], "scripts")) read_scripts(value);
        else die("there is no key %s", argv[i]);
    }
    if (!places[OUT] || !places[IN] || !phone_count || !backend_count || !script_count)
        die("out, in, phones, backends and scripts are needed");
    slots = calloc(SLOTS, sizeof *slots);
    make_phones();
    open_side(&sides[OUT], places[OUT]);
    open_side(&sides[IN], places[IN]);
    setvbuf(stdout, NULL, _IOLBF, 0);
    printf("{\"ready\": true}\n");
    while (fgets(line, sizeof line, stdin)) {
        unsigned count;
        if (sscanf(line, "prepare %u", &count) == 1)
            prepare(count);
        else if (sscanf(line, "run %199s %lf %lu", mix, &rate, &milliseconds) == 3 && rate > 0)
            run(mix, rate, milliseconds);
        else
            die("unknown command: %s", line);
    }
    return 0;
}

# A guest of a few kilobytes that boots where no Linux does: an ELF file with Xen's PVH entry, which QEMU (-kernel) and
# Cloud Hypervisor start in 32-bit mode without firmware or disk. It speaks on COM1 (port 0x3f8):
#
#   guest: boot            once in each boot
#   heartbeat              five times a second
#   echo: LINE             to each line that it is sent; the lines "poweroff" and "reboot" are obeyed besides
#   guest: power button    when the button is pressed, then "guest: going down", and it powers off; with
#                          ignore-power-button on its command line the first line only
#
# Power management is QEMU's q35 (ports 0x600 and 0x604, 0xcf9), or Cloud Hypervisor's (port 0x600, and a register whose
# address its DSDT tells), by the OEM name in the RSDP.

.set COM1, 0x3f8
.set LAPIC, 0xfee00000
.set TICKS_PER_BEAT, 10

        .section .note.Xen, "a", @note
        .balign 4
        .long 4, 8, 18                  # length of the name and of the address; XEN_ELFNOTE_PHYS32_ENTRY
        .asciz "Xen"
        .quad start

        .text
        .code32
        .globl start
start:
        cld
        mov $stack_end, %esp
        mov %ebx, %ebp                  # struct hvm_start_info
        lgdt gdt_pointer
        ljmp $8, $1f
1:      mov $16, %eax
        mov %eax, %ds
        mov %eax, %es
        mov %eax, %ss
        # The timer is the local APIC's; interrupts of the old controller, where there is one, are not wanted.
        mov $0xff, %al
        outb %al, $0x21
        outb %al, $0xa1
        mov $tick, %eax
        mov $idt + 0x20 * 8, %edi
        call gate
        mov $ignored, %eax
        mov $idt + 0xff * 8, %edi
        call gate
        lidt idt_pointer
        movl $0x1ff, LAPIC + 0xf0       # on; spurious interrupts have vector 0xff
        movl $0x20020, LAPIC + 0x320    # periodic, vector 0x20
        movl $0xa, LAPIC + 0x3e0        # clock / 128
        movl $156250, LAPIC + 0x380     # fifty times a second at QEMU's and KVM's 1 GHz
        call find_power_management
        mov $hello, %esi
        call print

# Interrupts come while it waits and at no other time, and there is nothing to return to: so no iret, which KVM cannot
# carry out where it has to emulate the guest's instructions.
main:
        sti
        hlt
        jmp main

tick:
        mov $stack_end, %esp
        movl $0, LAPIC + 0xb0
        incl ticks
        call look_at_button
        call read_line
        cmpl $TICKS_PER_BEAT, ticks
        jb main
        movl $0, ticks
        mov $heartbeat, %esi
        call print
        jmp main

ignored:
        mov $stack_end, %esp
        jmp main

# Interrupt gate at %edi for the handler %eax.
gate:
        mov %ax, (%edi)
        movw $8, 2(%edi)
        movw $0x8e00, 4(%edi)
        shr $16, %eax
        mov %ax, 6(%edi)
        ret

# Text at %esi, up to its zero.
print:
        lodsb
        test %al, %al
        jz 2f
        call put
        jmp print
2:      ret

put:
        push %eax
        mov $COM1 + 5, %dx
1:      inb %dx, %al
        test $0x20, %al
        jz 1b
        pop %eax
        mov $COM1, %dx
        outb %al, %dx
        ret

# Takes what was typed; obeys a line when it is whole.
read_line:
        mov $COM1 + 5, %dx
        inb %dx, %al
        test $1, %al
        jz 9f
        mov $COM1, %dx
        inb %dx, %al
        cmp $'\r', %al
        je 1f
        cmp $'\n', %al
        je 1f
        mov length, %ecx
        cmp $line_end - line - 1, %ecx
        jae read_line
        mov %al, line(%ecx)
        incl length
        jmp read_line
1:      mov length, %ecx
        test %ecx, %ecx
        jz read_line
        movb $0, line(%ecx)
        movl $0, length
        mov $echo, %esi
        call print
        mov $line, %esi
        call print
        mov $newline, %esi
        call print
        mov $poweroff_word, %esi
        call is_line
        je power_off
        mov $reboot_word, %esi
        call is_line
        je reboot
        jmp read_line
9:      ret

# Whether the line is the word at %esi.
is_line:
        mov $line, %edi
1:      lodsb
        scasb
        jne 2f
        test %al, %al
        jnz 1b
2:      ret

find_power_management:
        mov 24(%ebp), %esi              # command line
        test %esi, %esi
        jz 3f
1:      cmpb $0, (%esi)
        je 3f
        push %esi
        mov $ignore_word, %edi
        mov $ignore_word_end - ignore_word, %ecx
        repe cmpsb
        pop %esi
        je 2f
        inc %esi
        jmp 1b
2:      movb $1, deaf
3:      mov 32(%ebp), %esi              # RSDP
        test %esi, %esi
        jz 9f
        cmpl $0x554f4c43, 9(%esi)       # "CLOU"
        jne 8f
        movb $1, cloud_hypervisor
        mov 24(%esi), %esi              # XSDT
        mov 4(%esi), %ecx
        sub $36, %ecx                   # less the header, eight bytes each
        shr $3, %ecx
        add $36, %esi
4:      mov (%esi), %edi
        test %edi, %edi
        jz 5f
        cmpl $0x50434146, (%edi)        # "FACP"
        je 6f
5:      add $8, %esi
        loop 4b
        ret
6:      mov 140(%edi), %esi             # DSDT
        mov 4(%esi), %ecx
7:      cmpl $0x54534447, (%esi)        # "GDST", then system memory, then an address of four or eight bytes
        jne 1f
        cmpb $0, 4(%esi)
        jne 1f
        cmpb $0x0c, 5(%esi)
        je 2f
        cmpb $0x0e, 5(%esi)
        je 2f
1:      inc %esi
        loop 7b
        ret
2:      mov 6(%esi), %eax
        mov %eax, ged
        ret
8:      mov $0x602, %dx                 # q35: the button shall leave a mark
        mov $0x100, %ax
        outw %ax, %dx
9:      ret

look_at_button:
        cmpb $0, cloud_hypervisor
        je 1f
        mov ged, %eax
        test %eax, %eax
        jz 9f
        testb $8, (%eax)                # reading clears it
        jz 9f
        jmp 2f
1:      mov $0x600, %dx
        inw %dx, %ax
        test $0x100, %ax
        jz 9f
        mov $0x100, %ax
        outw %ax, %dx
2:      mov $button, %esi
        call print
        cmpb $0, deaf
        jne 9f
        mov $down, %esi
        call print
        jmp power_off
9:      ret

power_off:
        call drain
        cmpb $0, cloud_hypervisor
        jne 1f
        mov $0x604, %dx
        mov $0x2000, %ax
        outw %ax, %dx
        jmp stop
1:      mov $0x600, %dx
        mov $0x34, %al
        outb %al, %dx
        jmp stop

reboot:
        call drain
        cmpb $0, cloud_hypervisor
        jne 1f
        mov $0xcf9, %dx
        mov $6, %al
        outb %al, %dx
        jmp stop
1:      mov $0x600, %dx
        mov $1, %al
        outb %al, %dx
stop:
        cli
        hlt
        jmp stop

# Until all that was written has left the port.
drain:
        mov $COM1 + 5, %dx
1:      inb %dx, %al
        test $0x40, %al
        jz 1b
        ret

        .data
hello:          .asciz "guest: boot\n"
heartbeat:      .asciz "heartbeat\n"
echo:           .asciz "echo: "
newline:        .asciz "\n"
button:         .asciz "guest: power button\n"
down:           .asciz "guest: going down\n"
poweroff_word:  .asciz "poweroff"
reboot_word:    .asciz "reboot"
ignore_word:    .ascii "ignore-power-button"
ignore_word_end:
        .balign 8
gdt:    .quad 0, 0x00cf9b000000ffff, 0x00cf93000000ffff
gdt_pointer:
        .word . - gdt - 1
        .long gdt
idt_pointer:
        .word 256 * 8 - 1
        .long idt

# Not .bss: after a reset only what is in the file is as it was, and it is loaded anew.
        .balign 8
idt:    .fill 256 * 8
ticks:  .long 0
length: .long 0
ged:    .long 0
cloud_hypervisor: .byte 0
deaf:   .byte 0
line:   .fill 256
line_end:
        .balign 16
        .fill 4096
stack_end:
